// The taking side of a line of weights: one pull of one digest from one giver, into memory on the shelf that the next
// pull goes on with if this one fails. The line's thread only.
#pragma once
#include "gpu/transport/endpoint.hpp"
#include "gpu/transport/event_loop.hpp"
#include "gpu/transport/weights_frame.hpp"
#include "gpu/transport/weights_shelf.hpp"
#include <functional>
#include <memory>

namespace hflex::gpu {

struct weights_order {
  std::string digest;
  std::uint64_t key{};
  std::chrono::nanoseconds lease{};
};

class weights_taker {
public:
  /// From the loop; the taker may be dropped in any of them.
  struct events {
    std::function<void(const partial_weights&)> on_head; ///< it is right; not to drop the taker here
    std::function<void()> on_chunk;                      ///< there is more on the shelf
    std::function<void(result<void>)> done;              ///< once: everything is there, or why not
  };
  weights_taker(event_loop& loop, weights_shelf& shelf, weights_order order, events e)
      : loop_{loop}, shelf_{shelf}, order_{std::move(order)}, events_{std::move(e)} {}
  weights_taker(const weights_taker&) = delete;
  weights_taker& operator=(const weights_taker&) = delete;
  ~weights_taker();

  /// Dials; an error now is the end (`done` does not follow).
  result<void> begin(const endpoint& giver);

private:
  void on_ready(std::uint32_t epoll_events);
  void flush();
  bool read_header();
  bool read_payload();
  result<void> on_header(const weights_frame& frame);
  result<void> on_payload();
  void ask_for_missing(const partial_weights& weights);
  void finish(result<void> outcome);

  event_loop& loop_;
  weights_shelf& shelf_;
  const weights_order order_;
  events events_;
  unique_fd socket_;
  event_loop::token watch_{0};
  event_loop::token lease_{0};
  bool connecting_{true};
  std::vector<std::byte> out_;
  std::array<std::byte, weights_frame_bytes> header_{};
  std::size_t header_bytes_{0};
  std::optional<weights_frame> frame_; ///< whose payload is being read
  std::vector<std::byte> head_;        ///< so far
  bool head_came_{false};              ///< one a pull: each is answered by all that is asked for
  std::uint64_t payload_bytes_{0};     ///< so far
};

} // namespace hflex::gpu
