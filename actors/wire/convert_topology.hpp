// Topology values <-> Cap'n Proto.
#pragma once
#include "actors/cluster/topology.hpp"
#include "schema/topology.capnp.h"

namespace hflex::wire {

void write(schema::Snapshot::Builder out, const cluster::snapshot& snapshot);
cluster::snapshot read(schema::Snapshot::Reader in);
void write(schema::Event::Builder out, const cluster::cluster_event& event, std::uint64_t unix_ms);
cluster::cluster_event read(schema::Event::Reader in);

} // namespace hflex::wire
