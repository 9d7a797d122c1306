// The receiving side of KV transfers: whom we invited, what of theirs has arrived, where it goes. Fed with frames by
// its sources' connections (reception) and by the local lane; answers through `source_peer`. Trusts nothing in a frame.
// I/O thread only.
#pragma once
#include "gpu/transport/completion_queue.hpp"
#include "gpu/transport/coverage.hpp"
#include "gpu/transport/event_loop.hpp"
#include "gpu/transport/frame.hpp"
#include "gpu/transport/handoff.hpp"
#include <map>

namespace hflex::gpu {

/// One connection that sources use to reach us.
class source_peer {
public:
  virtual ~source_peer() = default;
  virtual void send(const frame_header& header) = 0;
  /// Transfers of ours that now run over it; kept by kv_sink.
  std::uint32_t transfers{0};
};

struct sink_spec {
  transfer_id id;
  std::uint64_t key{};
  kv_shape shape;
  std::shared_ptr<device_context> context;
  std::vector<block_index> table;
  duration lease{};
  transfer_callback done;
};

class kv_sink {
public:
  kv_sink(event_loop& loop, completion_queue& completions, std::uint32_t max_transfers)
      : loop_{loop}, completions_{completions}, max_transfers_{max_transfers} {}

  /// Any thread. Holds at once; `admit` is to run soon.
  void expect(sink_spec spec) { expected_.put(std::move(spec)); }
  void admit();
  void close(transfer_id id);
  void close_all();

  /// Frames open, data, failed. `verified`: the payload never left this process, it carries no checksum. Nothing that a
  /// frame says harms another peer's transfer; frames for transfers that are over are dropped.
  void on_frame(source_peer& from, const frame_header& header, std::span<const std::byte> payload, bool verified);
  /// The connection is gone: its transfers complete with `why`.
  void on_gone(source_peer& from, const error& why);

private:
  struct entry {
    sink_spec spec;
    coverage arrived;
    event_loop::token lease{0};
    source_peer* from{nullptr}; // set by `open`
  };
  using entries = std::map<transfer_id, entry>;

  void admit_one(sink_spec spec);
  void on_open(source_peer& from, const frame_header& header);
  void on_data(entries::iterator it, const frame_header& header, std::span<const std::byte> payload, bool verified);
  /// Tells the source, completes, forgets.
  void give_up(entries::iterator it, fault cause, error why);
  /// Completes and forgets; returns what follows it.
  entries::iterator complete(entries::iterator it, result<void> outcome);

  event_loop& loop_;
  completion_queue& completions_;
  const std::uint32_t max_transfers_;
  handoff<sink_spec> expected_;
  entries entries_;
};

} // namespace hflex::gpu
