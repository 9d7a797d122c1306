// One question to the network: does somebody listen there?
#pragma once
#include "actors/common/result.hpp"
#include "actors/common/time.hpp"
#include "tools/cli/endpoint.hpp"

namespace hflex::runtime {

/// Connects and hangs up. errc::retry says why not: unknown host, nobody listens, no answer in time.
result<void> probe(const cli::endpoint& at, duration timeout);

} // namespace hflex::runtime
