// The giving side of a line of weights: takes connections of other hosts, lets in those that have a grant of the
// control plane, and sends the chunks that they ask for, never faster than the limit. Meets strangers: who has no grant
// in time, breaks the protocol or is one too many is cut off, and nobody else notices. The line's thread only.
#pragma once
#include "gpu/transport/event_loop.hpp"
#include "gpu/transport/weights_shelf.hpp"
#include <map>
#include <memory>

namespace hflex::gpu {

/// Bytes that may go out now, if so many a second may. 0 a second: as many as one likes.
class token_bucket {
public:
  using clock = event_loop::clock;
  void set_rate(std::uint64_t bytes_per_s, clock::time_point now);
  /// At most `want`; 0 when it is too soon for even a small write.
  std::uint64_t take(std::uint64_t want, clock::time_point now);
  void give_back(std::uint64_t bytes) { tokens_ += static_cast<double>(bytes); }
  /// Until take gives something again.
  std::chrono::nanoseconds pause(clock::time_point now) const;

private:
  void refill(clock::time_point now);
  double rate_{0};
  double tokens_{0};
  clock::time_point at_{};
};

class weights_giver {
public:
  weights_giver(event_loop& loop, const weights_shelf& shelf) : loop_{loop}, shelf_{shelf} {}
  ~weights_giver();

  /// Begins to accept; before the loop is launched.
  result<void> listen(unique_fd socket);
  /// Whoever shows this key may take these weights until the lease ends, then is cut off.
  void grant(std::string digest, std::uint64_t key, std::chrono::nanoseconds lease);
  void limit(std::uint64_t bytes_per_s);
  /// There is more, or nothing any more, of these weights on the shelf.
  void changed(const std::string& digest);
  void close_all();
  std::uint64_t bytes_sent() const { return bytes_sent_; }

private:
  class guest;
  struct grant_entry {
    std::string digest;
    event_loop::token lease{0};
  };
  void accept();
  void dismiss(std::uint64_t id);
  void resume_later();

  event_loop& loop_;
  const weights_shelf& shelf_;
  unique_fd socket_;
  event_loop::token watch_{0};
  event_loop::token resume_{0}; ///< when the bucket has something again
  token_bucket bucket_;
  std::map<std::uint64_t, grant_entry> grants_; ///< by key
  std::map<std::uint64_t, std::shared_ptr<guest>> guests_;
  std::uint64_t next_guest_{1};
  std::uint64_t bytes_sent_{0};
};

} // namespace hflex::gpu
