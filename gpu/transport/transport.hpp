// The data plane: moves KV blocks and weights between instances without a byte of them in an actor message.
// One `transport` per process owns an I/O thread, its listening endpoints and every open transfer. All calls return at
// once; callbacks come on the I/O thread and must not block (actor shells post them to their mailbox).
//
// Paths, picked per peer from what both offer: `local` (same process: memcpy), `shm` (same host: a memfd ring announced
// over a Unix socket), `tcp` (bytes inline). Every path is acknowledged and leased, and checksummed where bytes leave
// the process. When either side dies or a lease ends, both sides get exactly one completion and nothing stays
// allocated.
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
#include "gpu/transport/unique_fd.hpp"
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
  bool enable_local{true}; ///< off in tests that want the wire
  std::string host_id; ///< which host this is, for who shares memory with whom; empty: what the kernel says. Tests and
                       ///< benchmarks on one machine say otherwise
  std::uint64_t ring_bytes{8U << 20U}; ///< shm ring per connection
  std::uint64_t max_queued_bytes{
      256U << 20U};                  ///< pushed but unsent bytes per peer; more fails the transfer with errc::retry
  std::uint32_t max_transfers{4096}; ///< open transfers per side; more complete with errc::retry
};

/// How peers reach a transport: "local:<random process id>", "shm:<host id>:<abstract unix socket name>",
/// "tcp:<host>:<port>", and "weights:<host>:<port>" for weights between hosts. Sent in actor messages as they are.
/// Order does not matter; the cheapest path that works wins.
using endpoint_list = std::vector<std::string>;

/// What a transfer carries; both ends state it and must agree.
struct kv_shape {
  std::uint32_t layers{};
  std::uint32_t tokens{};            ///< tokens to be delivered in every layer
  std::uint64_t token_layer_bytes{}; ///< as kv_geometry::token_layer_bytes
  compute_type element{};            ///< what the bytes are: rows are never converted
};

/// One transport may hold both ends of a transfer (local path), so an id alone does not say whose end is meant.
enum class transfer_side : std::uint8_t { source, sink };

/// Completion of a transfer, once per side. On failure: errc::reroute (peer gone, checksum, refused), errc::retry
/// (lease ended, queue full), errc::reject (peer broke the protocol).
using transfer_callback = std::function<void(transfer_id, result<void>)>;

/// Running totals for the topology's links.
struct transfer_stats {
  std::string path; ///< "local", "shm" or "tcp"
  std::uint64_t bytes_total{};
};

/// What came of opening a way to a peer: its path ("local", "shm", "tcp"), or why there is none (errc::reroute). On the
/// I/O thread; must not block.
using link_callback = std::function<void(result<std::string>)>;

/// A descriptor of memory on a device, which another process of this host may map, and what it needs to know for that
/// (at most 256 bytes; the device's backend wrote them). Whoever holds the descriptor keeps the memory.
struct shared_device_memory {
  std::vector<std::byte> note;
  std::shared_ptr<const unique_fd> fd;
};

/// One offer of memory on a device; no transport gives the same one twice.
using device_offer = strong_id<struct device_offer_tag, std::uint64_t>;

/// Bytes of weights that went to and came from other hosts so far.
struct weights_traffic {
  std::uint64_t bytes_sent{};
  std::uint64_t bytes_taken{};
};

class transport {
public:
  /// Listens and starts the I/O thread. May block on name service when `listen_host` is a name. errc::reject: options
  /// out of range, or an address that cannot be listened on.
  static result<std::unique_ptr<transport>> start(transport_options options);
  /// Closes everything; open transfers complete with errc::reroute before it returns. Not from a callback; what
  /// callbacks ask for meanwhile is ignored.
  virtual ~transport() = default;

  virtual const endpoint_list& endpoints() const = 0;

  // ---- sink ----
  /// Allows one inbound transfer into `table` of `context`, from the moment it returns. Call it before the source may
  /// open: an open that finds no invitation is refused (the source completes with errc::reroute). `key` (64 random
  /// bits, sent to the source in a control message) is the source's proof that it was invited. The caller holds the
  /// blocks until `on_received` (or until close returns). errc::reject: the shape does not fit the context or the
  /// table, or the id is taken.
  virtual void expect(transfer_id id, std::uint64_t key, kv_shape shape, std::shared_ptr<device_context> context,
      std::vector<block_index> table, duration lease, transfer_callback on_received) = 0;

  // ---- links ----
  /// Opens the way to a peer before anything is sent, and keeps it open until `unlink`; transfers share it. A way that
  /// breaks is dialled again by the next transfer. Counted: as many unlinks as links. An empty peer is nobody. Any
  /// thread.
  virtual void link(endpoint_list peer, link_callback done) = 0;
  virtual void unlink(endpoint_list peer) = 0;

  // ---- source ----
  /// Opens the way to a sink. `table` holds the KV of the tokens to send; blocks are held by the caller until
  /// `on_delivered`. errc::reject as for expect; an id stays taken (and its stats known) until close.
  virtual void open(transfer_id id, std::uint64_t key, kv_shape shape, std::shared_ptr<const device_context> context,
      std::vector<block_index> table, endpoint_list sink, duration lease, transfer_callback on_delivered) = 0;
  /// Queues rows [begin, begin + count) of one layer; every row of every layer is pushed once. Any thread, at any time
  /// after open returned (device threads call it from on_layer); ignored once the transfer has ended.
  virtual void push(transfer_id id, std::uint32_t layer, std::uint32_t begin, std::uint32_t count) = 0;

  /// Ends this side of a transfer; the other side, if still open, completes with errc::reroute. A barrier: no callback
  /// follows once it returned, and no thread touches the blocks or the context. Any thread, callbacks included (there
  /// it is at once).
  virtual void close(transfer_id id, transfer_side side) = 0;

  /// Path and bytes so far of a finished or open transfer this side sent (kept until close); empty path while unknown.
  virtual transfer_stats stats(transfer_id id) const = 0;

  // ---- weights (same host: the descriptor is passed, no byte is copied) ----
  /// Lets neighbours fetch this region, from the moment it returns until `withdraw_weights` returned. Any thread.
  virtual void offer_weights(std::shared_ptr<const weight_region> region) = 0;
  virtual void withdraw_weights(const std::string& digest) = 0;
  using weights_callback = std::function<void(result<std::shared_ptr<const weight_region>>)>;
  /// Gets a region from a process on this host. errc::reroute: the peer is gone, not on this host or has no such
  /// weights. errc::retry: the deadline passed, or too many fetches wait. errc::reject: what the peer passed are not
  /// those weights.
  virtual void fetch_weights(endpoint_list holder, std::string digest, duration deadline, weights_callback done) = 0;

  // ---- weights on a device (same host: its memory's descriptor is passed, and what comes of it is the backend's) ----
  /// As offer_weights, under a key that says what they are (at most 256 bytes). Several offers may have one key: the
  /// latest is given. Any thread.
  virtual device_offer offer_device_weights(std::string key, shared_device_memory memory) = 0;
  virtual void withdraw_device_weights(device_offer offer) = 0;
  using device_weights_callback = std::function<void(result<shared_device_memory>)>;
  /// As fetch_weights; nobody checks what the peer passed. The own process is not asked.
  virtual void fetch_device_weights(
      endpoint_list holder, std::string key, duration deadline, device_weights_callback done) = 0;

  // ---- weights (between hosts: chunks over TCP, each checked against the digest) ----
  /// Lets the taker that shows `key` (64 random bits of the control plane) take these weights until the lease ends:
  /// those that are offered, and the chunks of those that are still being pulled here as they arrive. Any thread.
  virtual void grant_weights(std::string digest, std::uint64_t key, duration lease) = 0;
  /// Bytes a second that all takers together get from here, 0 = no limit. Any thread.
  virtual void limit_weights(std::uint64_t bytes_per_s) = 0;
  struct pull_callbacks {
    progress_callback progress; ///< may be empty
    /// The head is here and right: the region as it is going to be, whose arrival tells what else is. Before `done`,
    /// and again, with the same region, when another pull goes on with what a failed one had. May be empty.
    std::function<void(std::shared_ptr<const weight_region>)> begun;
    weights_callback done; ///< once
  };
  /// Pulls weights from a process of another host, in the order in which a step reads them. What a failed pull has
  /// received is kept for a while: the next one, from whichever holder, asks for the rest only. Callbacks come on the
  /// transport's threads. errc::reroute: the holder is gone or refuses. errc::retry: the lease ended, or they are being
  /// pulled already. errc::reject: what came are not those weights. Any thread.
  virtual void pull_weights(
      endpoint_list holder, std::string digest, std::uint64_t key, duration lease, pull_callbacks calls) = 0;
  /// Ends a pull; it completes with errc::reroute. Any thread.
  virtual void stop_pull(std::string digest) = 0;
  virtual weights_traffic weights_moved() = 0;
};

} // namespace hflex::gpu
