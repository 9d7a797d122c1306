// Weights between hosts: a listening port, a thread, and the pulls of this process. Puts giver, takers and shelf
// together and carries calls of any thread to its own. What a pull has received can be given on before the rest is
// here: that is what makes a chain of newcomers as fast as one.
#pragma once
#include "gpu/transport/transport.hpp"
#include "gpu/transport/weights_giver.hpp"
#include "gpu/transport/weights_taker.hpp"

namespace hflex::gpu {

class weights_line {
public:
  /// errc::reject: an address that cannot be listened on.
  static result<std::unique_ptr<weights_line>> start(const std::string& listen_host);
  weights_line(const weights_line&) = delete;
  weights_line& operator=(const weights_line&) = delete;
  ~weights_line();

  const std::string& endpoint_text() const { return endpoint_; } ///< "weights:HOST:PORT"

  // ---- any thread ----
  void offer(std::shared_ptr<const weight_region> region);
  void withdraw(const std::string& digest);
  void grant(std::string digest, std::uint64_t key, duration lease);
  void limit(std::uint64_t bytes_per_s);
  void pull(std::vector<endpoint> ways, weights_order order, transport::pull_callbacks calls);
  void stop_pull(std::string digest);
  weights_traffic traffic();

private:
  struct pull_entry {
    std::vector<endpoint> ways;
    std::size_t way{0};
    weights_order order;
    transport::pull_callbacks calls;
    std::unique_ptr<weights_taker> taker;
    event_loop::clock::time_point told{};
  };

  explicit weights_line(std::unique_ptr<event_loop> loop) : loop_{std::move(loop)}, giver_{*loop_, shelf_} {}
  void begin(const std::string& digest);
  void on_chunk(const std::string& digest);
  void on_end(const std::string& digest, result<void> outcome);
  void complete(const std::string& digest, result<std::shared_ptr<const weight_region>> outcome);
  void forget_later(const std::string& digest);

  const std::unique_ptr<event_loop> loop_;
  std::string endpoint_;
  // The loop's thread only:
  weights_shelf shelf_;
  weights_giver giver_;
  std::map<std::string, pull_entry> pulls_;            ///< by digest
  std::map<std::string, event_loop::token> forgotten_; ///< timers: what nobody came back for
  std::uint64_t bytes_taken_{0};
};

} // namespace hflex::gpu
