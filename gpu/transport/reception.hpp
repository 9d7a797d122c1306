// The listening side: takes connections of sources and of weight fetchers, leads them through the handshake and hands
// their frames on. Meets strangers: a connection that is not done with its hello in time, that sends anything
// ill-formed, or that is one too many is closed, and nobody else notices. I/O thread only.
#pragma once
#include "gpu/transport/connection.hpp"
#include "gpu/transport/kv_sink.hpp"
#include "gpu/transport/weights_exchange.hpp"
#include <map>

namespace hflex::gpu {

class reception {
public:
  reception(event_loop& loop, kv_sink& sink, weights_exchange& weights)
      : loop_{loop}, sink_{sink}, weights_{weights}, scratch_{new std::byte[max_payload_bytes]} {}
  ~reception();

  /// Begins to accept; before the loop is launched.
  result<void> listen(unique_fd socket, bool is_unix);
  void close_all();

private:
  class guest;
  struct listener {
    unique_fd socket;
    bool is_unix{};
    event_loop::token watch{0};
    std::size_t guests{0};
  };
  void accept(listener& on);
  void pause(listener& on);
  void dismiss(std::uint64_t id);

  event_loop& loop_;
  kv_sink& sink_;
  weights_exchange& weights_;
  std::unique_ptr<std::byte[]> scratch_; // one chunk out of a ring, shared by all
  std::vector<std::unique_ptr<listener>> listeners_;
  std::map<std::uint64_t, std::shared_ptr<guest>> guests_;
  std::uint64_t next_guest_{1};
};

} // namespace hflex::gpu
