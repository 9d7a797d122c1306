#include "actors/wire/system.hpp"
#include "actors/wire/interfaces.hpp"
#include <caf/io/basp/header.hpp>
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

// CAF 0.17 believes the length that a header names: it makes room for up to 4 GiB before the first byte of a payload
// has come, which halts everybody's messages for seconds, and it reads the payload of a handshake that has none. This
// takes the place of the library's own check, which every header from the network passes before anything is done with
// it.
namespace caf::io::basp {

bool valid(const header& h) {
  constexpr std::uint32_t most_of_handshake = 4096;
  constexpr std::uint32_t most_of_message = hflex::wire::max_message_bytes + 65536; // and its envelope
  bool any_payload = h.payload_len > 0 && h.payload_len <= most_of_message;
  bool small_payload = h.payload_len > 0 && h.payload_len <= most_of_handshake;
  switch (h.operation) {
  case message_type::server_handshake:
    return small_payload && h.operation_data != 0;
  case message_type::client_handshake:
    return small_payload && h.source_actor == 0 && h.dest_actor == 0;
  case message_type::direct_message:
  case message_type::routed_message:
    return any_payload && h.dest_actor != 0;
  case message_type::monitor_message:
    return small_payload && h.operation_data == 0;
  case message_type::down_message:
    return any_payload && h.source_actor != 0 && h.dest_actor == 0 && h.operation_data == 0;
  case message_type::heartbeat:
    return h.payload_len == 0 && h.source_actor == 0 && h.dest_actor == 0 && h.operation_data == 0;
  default:
    return false;
  }
}

} // namespace caf::io::basp

namespace hflex::wire {

system_config::system_config(const system_options& options) {
  add_message_types<caf::id_block::hflex>();
  if (options.network) load<caf::io::middleman>(); // before its options are set
  auto put = [this](caf::string_view key, auto value) { caf::put(content, key, std::move(value)); };
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
