#include "actors/wire/system.hpp"
#include "actors/wire/interfaces.hpp"
#include <sys/random.h>

// CAF 0.17 derives a node's identity from MAC address, disk and process id, which two containers on one host share when
// both run as pid 1. This takes the place of the library's own definition and answers with random bits instead.
namespace caf::detail {

std::uint32_t get_process_id();
std::uint32_t get_process_id() {
  static const std::uint32_t identity = [] {
    std::uint32_t bits = 0;
    if (getrandom(&bits, sizeof(bits), 0) != static_cast<ssize_t>(sizeof(bits)) || bits == 0) bits = 1;
    return bits;
  }();
  return identity;
}

} // namespace caf::detail

namespace hflex::wire {

system_config::system_config(const system_options& options) {
  add_message_types<caf::id_block::hflex>();
  if (options.network) load<caf::io::middleman>(); // before its options are set
  auto put = [this](const char* key, auto value) { caf::put(content, key, std::move(value)); };
  put("scheduler.policy", options.testing ? caf::atom("testing") : caf::atom("sharing"));
  put("scheduler.max-threads", options.scheduler_threads);
  put("scheduler.max-throughput", std::size_t{300}); // no actor holds a thread for long
  put("middleman.workers", std::size_t{0});
  put("middleman.heartbeat-interval", caf::timespan{options.heartbeat});
  put("middleman.connection-timeout", caf::timespan{options.peer_timeout});
  put("middleman.enable-automatic-connections", false);
  if (options.testing) {
    put("logger.inline-output", true);
    put("middleman.network-backend", caf::atom("testing"));
    put("middleman.manual-multiplexing", true);
  }
}

} // namespace hflex::wire
