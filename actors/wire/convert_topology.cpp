#include "actors/wire/convert_topology.hpp"
#include "actors/wire/convert.hpp"
#include <kj/debug.h>

namespace hflex::wire {

void write(schema::Snapshot::Builder out, const cluster::snapshot& snapshot) {
  out.setEpoch(snapshot.epoch);
  auto nodes = out.initNodes(static_cast<unsigned>(snapshot.nodes.size()));
  for (unsigned i = 0; i < snapshot.nodes.size(); ++i) {
    const auto& n = snapshot.nodes[i];
    nodes[i].setId(n.id);
    nodes[i].setName(n.name);
    nodes[i].setAddress(n.address);
    nodes[i].setState(n.state);
    nodes[i].setWeightsBytes(n.weights_bytes);
    nodes[i].setWeightsIdleBytes(n.weights_idle_bytes);
    auto devices = nodes[i].initDevices(static_cast<unsigned>(n.devices.size()));
    for (unsigned k = 0; k < n.devices.size(); ++k) {
      devices[k].setId(n.devices[k].id);
      devices[k].setKind(n.devices[k].kind);
      devices[k].setName(n.devices[k].name);
      devices[k].setMemoryBytes(n.devices[k].memory_bytes);
      devices[k].setMemoryUsedBytes(n.devices[k].memory_used_bytes);
    }
  }
  auto actors = out.initActors(static_cast<unsigned>(snapshot.actors.size()));
  for (unsigned i = 0; i < snapshot.actors.size(); ++i) {
    const auto& a = snapshot.actors[i];
    actors[i].setId(a.id);
    actors[i].setKind(a.kind);
    actors[i].setNode(a.node);
    actors[i].setRole(a.role);
    actors[i].setDevice(a.device);
    actors[i].setState(a.state);
    actors[i].setRunning(a.running);
    actors[i].setWaiting(a.waiting);
    actors[i].setKvBlocksTotal(a.kv_blocks_total);
    actors[i].setKvBlocksFree(a.kv_blocks_free);
    actors[i].setMailbox(a.mailbox);
    actors[i].setStepMsMean(a.step_ms_mean);
    actors[i].setKvBlocksCached(a.kv_blocks_cached);
    actors[i].setPrefixHitRatio(a.prefix_hit_ratio);
    actors[i].setDuty(a.duty);
  }
  auto links = out.initLinks(static_cast<unsigned>(snapshot.links.size()));
  for (unsigned i = 0; i < snapshot.links.size(); ++i) {
    const auto& l = snapshot.links[i];
    links[i].setFrom(l.from);
    links[i].setTo(l.to);
    links[i].setKind(l.kind);
    links[i].setTransport(l.transport);
    links[i].setBytesTotal(l.bytes_total);
    links[i].setBytesExpected(l.bytes_expected);
    links[i].setState(l.state);
  }
}

cluster::snapshot read(schema::Snapshot::Reader in) {
  cluster::snapshot snapshot;
  snapshot.epoch = in.getEpoch();
  for (auto n : in.getNodes()) {
    cluster::node_view view{read(n.getId()), read(n.getName()), read(n.getAddress()), read(n.getState()), {},
        n.getWeightsBytes(), n.getWeightsIdleBytes()};
    for (auto d : n.getDevices())
      view.devices.push_back(
          {read(d.getId()), read(d.getKind()), read(d.getName()), d.getMemoryBytes(), d.getMemoryUsedBytes()});
    snapshot.nodes.push_back(std::move(view));
  }
  for (auto a : in.getActors())
    snapshot.actors.push_back(
        {read(a.getId()), read(a.getKind()), read(a.getNode()), read(a.getRole()), read(a.getDevice()),
            read(a.getState()), a.getRunning(), a.getWaiting(), a.getKvBlocksTotal(), a.getKvBlocksFree(),
            a.getMailbox(), a.getStepMsMean(), a.getKvBlocksCached(), a.getPrefixHitRatio(), read(a.getDuty())});
  for (auto l : in.getLinks())
    snapshot.links.push_back({read(l.getFrom()), read(l.getTo()), read(l.getKind()), read(l.getTransport()),
        l.getBytesTotal(), l.getBytesExpected(), read(l.getState())});
  return snapshot;
}

void write(schema::Event::Builder out, const cluster::cluster_event& event, std::uint64_t unix_ms) {
  out.setSeq(event.sequence);
  out.setUnixMs(unix_ms);
  out.setEpoch(event.epoch);
  out.setKind(static_cast<std::uint16_t>(event.what));
  out.setSubject(event.subject);
  out.setText(event.detail);
}

cluster::cluster_event read(schema::Event::Reader in) {
  KJ_REQUIRE(in.getKind() <= static_cast<unsigned>(cluster::last_change), "unknown kind of event", in.getKind());
  return {in.getSeq(), in.getEpoch(), static_cast<cluster::change>(in.getKind()), read(in.getSubject()),
      read(in.getText())};
}

} // namespace hflex::wire
