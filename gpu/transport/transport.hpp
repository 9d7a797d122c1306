// The data plane: moves KV blocks and weights between instances without a byte of them in an actor message.
// One `transport` per process owns an I/O thread, its listening endpoints and every open transfer. All calls return at once;
// callbacks come on the I/O thread and must not block (actor shells post them to their mailbox).
//
// Paths, picked per peer from what both offer: `local` (same process: memcpy), `shm` (same host: a memfd ring announced over
// a Unix socket), `tcp` (bytes inline). Every path is acknowledged, checksummed and leased: when either side dies or a lease
// ends, both sides get exactly one completion and nothing stays allocated.
//
//   source                                         sink
//     |                                              | expect(id, key, ...)         blocks are allocated, lease starts
//     | <---- (actors: accept with addresses) ------ |
//     | open(id, key, addresses) ------------------> |
//     | push(layer, begin, count) ... -------------> | write_kv, checksum
//     | (the last push) ---------------------------> | all (layer, token) there? -> on_received(ok)
//     | on_delivered(ok) <-------------------------- | acknowledged: the source may free its blocks
#pragma once
#include "actors/common/ids.hpp"
#include "actors/common/result.hpp"
#include "actors/common/time.hpp"
#include "gpu/device.hpp"
#include "gpu/weights.hpp"
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace hflex::gpu {

struct transport_options {
  std::string listen_host{"127.0.0.1"}; ///< for tcp; loopback unless told otherwise
  std::uint16_t tcp_port{0};            ///< 0 = any free port
  bool enable_shm{true};
  bool enable_tcp{true};
  bool enable_local{true};              ///< off in tests that want the wire
  std::uint64_t ring_bytes{8U << 20U};  ///< shm ring per connection
  std::uint64_t max_queued_bytes{256U << 20U}; ///< pushed but unsent bytes per peer; more fails the transfer with errc::retry
};

/// How peers reach a transport: "local:<random process id>", "shm:<host id>:<abstract unix socket name>", "tcp:<host>:<port>".
/// Sent in actor messages as they are. Order does not matter; the cheapest path that works wins.
using endpoint_list = std::vector<std::string>;

/// What a transfer carries; both ends state it and must agree.
struct kv_shape {
  std::uint32_t layers{};
  std::uint32_t tokens{};             ///< tokens to be delivered in every layer
  std::uint64_t token_layer_bytes{};  ///< as kv_geometry::token_layer_bytes
};

/// Completion of a transfer, once per side. On failure: errc::reroute (peer gone, checksum, refused), errc::retry (lease
/// ended, queue full), errc::reject (peer broke the protocol).
using transfer_callback = std::function<void(transfer_id, result<void>)>;

/// Running totals for the topology's links.
struct transfer_stats {
  std::string path;           ///< "local", "shm" or "tcp"
  std::uint64_t bytes_total{};
};

class transport {
public:
  static result<std::unique_ptr<transport>> start(transport_options options);
  virtual ~transport() = default; ///< closes everything; open transfers complete with errc::reroute before it returns

  virtual const endpoint_list& endpoints() const = 0;

  // ---- sink ----
  /// Allows one inbound transfer into `table` of `context`. `key` (64 random bits, sent to the source in a control message) is
  /// the source's proof that it was invited. The caller holds the blocks until `on_received` (or until close returns).
  virtual void expect(transfer_id id, std::uint64_t key, kv_shape shape, std::shared_ptr<device_context> context,
      std::vector<block_index> table, duration lease, transfer_callback on_received) = 0;

  // ---- source ----
  /// Opens the way to a sink. `table` holds the KV of the tokens to send; blocks are held by the caller until `on_delivered`.
  virtual void open(transfer_id id, std::uint64_t key, kv_shape shape, std::shared_ptr<const device_context> context,
      std::vector<block_index> table, endpoint_list sink, duration lease, transfer_callback on_delivered) = 0;
  /// Queues rows [begin, begin + count) of one layer. Any thread (device threads call it from on_layer).
  virtual void push(transfer_id id, std::uint32_t layer, std::uint32_t begin, std::uint32_t count) = 0;

  /// Ends a transfer on either side; no callback follows once it returned, and no thread touches its blocks or context.
  virtual void close(transfer_id id) = 0;

  /// Path and bytes so far of a finished or open transfer this side sent (kept until close); empty path when unknown.
  virtual transfer_stats stats(transfer_id id) const = 0;

  // ---- weights (same host: the descriptor is passed, no byte is copied) ----
  /// Lets neighbours fetch this region until `withdraw_weights`.
  virtual void offer_weights(std::shared_ptr<const weight_region> region) = 0;
  virtual void withdraw_weights(const std::string& digest) = 0;
  using weights_callback = std::function<void(result<std::shared_ptr<const weight_region>>)>;
  /// Gets a region from a process on this host. errc::reroute: the peer is gone, not on this host or has no such weights.
  virtual void fetch_weights(endpoint_list holder, std::string digest, duration deadline, weights_callback done) = 0;
};

} // namespace hflex::gpu
