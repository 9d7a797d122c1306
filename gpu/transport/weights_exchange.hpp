// Weights between processes of one host: the holder answers with its region's descriptor, the fetcher maps and checks
// it on a thread of its own (a checksum over gigabytes is no work for the I/O thread). Memory on a
// device goes the same way, and is mapped by who asked for it. I/O thread only, unless said otherwise.
#pragma once
#include "gpu/transport/completion_queue.hpp"
#include "gpu/transport/connection.hpp"
#include "gpu/transport/endpoint.hpp"
#include <condition_variable>
#include <map>
#include <optional>

namespace hflex::gpu {

class weights_exchange {
public:
  weights_exchange(event_loop& loop, completion_queue& completions) : loop_{loop}, completions_{completions} {}
  weights_exchange(const weights_exchange&) = delete;
  weights_exchange& operator=(const weights_exchange&) = delete;
  ~weights_exchange() { finish_mapping(); }

  /// Any thread; both hold from their return.
  void offer(std::shared_ptr<const weight_region> region);
  void withdraw(const std::string& digest);
  device_offer offer_device(std::string key, shared_device_memory memory);
  void withdraw_device(device_offer offer);
  /// A fetcher's `want` of what `code` says.
  void answer(connection& to, std::uint32_t code, std::span<const std::byte> key);

  /// `ways`: tcp ones are not looked at.
  void fetch(std::vector<endpoint> ways, std::string digest, duration deadline, transport::weights_callback done);
  void fetch_device(
      std::vector<endpoint> ways, std::string key, duration deadline, transport::device_weights_callback done);
  void close_all();
  /// Waits for the mapping thread; after the loop has stopped.
  void finish_mapping();

private:
  using region_ptr = std::shared_ptr<const weight_region>;
  struct fetching {
    std::vector<endpoint> ways;
    std::size_t way{0};
    std::uint32_t what{want_region};
    std::string key; ///< a region's digest
    transport::weights_callback done;
    transport::device_weights_callback device_done; ///< one of the two
    std::shared_ptr<connection> holder;
    event_loop::token deadline{0};
  };
  struct offered_memory {
    std::string key;
    shared_device_memory memory;
  };
  struct mapping_job {
    std::uint64_t fetch;
    unique_fd fd;
    std::string digest;
  };

  region_ptr offered(const std::string& digest);
  std::optional<shared_device_memory> offered_device(const std::string& key);
  void begin(fetching f, duration deadline);
  void try_ways(std::uint64_t id);
  result<std::shared_ptr<connection>> ask(const endpoint& holder, std::uint64_t id);
  result<void> on_frame(std::uint64_t id, const frame_header& header, std::span<const std::byte> payload, unique_fd fd);
  void next_way(std::uint64_t id);
  void complete(std::uint64_t id, result<region_ptr> outcome);
  void complete(std::uint64_t id, result<shared_device_memory> outcome);
  void give_up(std::uint64_t id, const error& why);
  /// Nothing when it has ended before.
  std::optional<fetching> end(std::uint64_t id);
  result<void> map_later(mapping_job job);
  void map_all();

  event_loop& loop_;
  completion_queue& completions_;
  std::mutex offers_mutex_; // guards the three below
  std::map<std::string, region_ptr> offers_;
  std::map<device_offer, offered_memory> device_offers_;
  std::uint64_t last_device_offer_{0};
  std::map<std::uint64_t, fetching> fetches_;
  std::uint64_t next_fetch_{1};

  std::thread mapper_;
  std::mutex mutex_; // guards the three below
  std::condition_variable changed_;
  std::deque<mapping_job> jobs_;
  bool ending_{false};
};

} // namespace hflex::gpu
