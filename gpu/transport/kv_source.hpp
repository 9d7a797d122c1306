// The sending side of KV transfers: finds a way to the sink, reads queued rows from the device into it, in turns
// between the transfers that share it, and waits for the sink's word. I/O thread only.
//
//   opening --lane ready--> sending --`delivered`--> completed ok
//      |  lane fails: next way; none left: reroute       |  lane dies, `failed`, lease, push fault: completed with an
//      error
#pragma once
#include "gpu/transport/lane.hpp"
#include "gpu/transport/outbox.hpp"
#include <map>
#include <set>
#include <string>

namespace hflex::gpu {

struct source_spec {
  transfer_id id;
  std::uint64_t key{};
  kv_shape shape;
  std::shared_ptr<const device_context> context;
  std::vector<block_index> table;
  std::vector<endpoint> ways; ///< cheapest first
  duration lease{};
  transfer_callback done;
};

class kv_source {
public:
  kv_source(event_loop& loop, completion_queue& completions, outbox& pushed, kv_sink& own_sink,
      const transport_options& options)
      : loop_{loop}, completions_{completions}, pushed_{pushed}, own_sink_{own_sink}, options_{options} {}

  /// Any thread; known to the outbox unless `possible` says what is wrong with it. `admit` is to run soon.
  void open(source_spec spec, result<void> possible) { opened_.put({std::move(spec), std::move(possible)}); }
  void admit();
  void wake(transfer_id id); ///< the outbox has news
  void close(transfer_id id);
  void close_all();

  /// Opens a way to a peer and keeps it for transfers to come. `name` tells peers apart. As transport::link.
  void link(const std::string& name, std::vector<endpoint> ways, link_callback done);
  void unlink(const std::string& name);

private:
  struct route { // one lane and the transfers that share it
    endpoint to;
    std::shared_ptr<lane> way;
    bool ready{false};
    std::vector<transfer_id> members;
    std::vector<frame_header> farewells; // of transfers that gave up before the lane was ready
    std::set<std::string> links;         // that keep it open
    std::size_t turn{0};
    event_loop::token timer{0}; // until ready: handshake; without members: idle
    bool pump_later{false};
  };
  using route_id = std::uint64_t;
  struct entry {
    source_spec spec;
    std::size_t way{0};
    route_id via{0}; // none while between ways
    event_loop::token lease{0};
    std::uint64_t rows_sent{0};
  };
  using entries = std::map<transfer_id, entry>;
  struct held_link {
    std::vector<endpoint> ways;
    std::size_t way{0};
    route_id via{0}; // none: broken, or not to be opened
    std::size_t users{0};
    std::vector<link_callback> waiting;
  };
  enum class step { nothing, sent, full, failed };

  void admit_one(source_spec spec);
  void join(entries::iterator it);
  result<route_id> route_to(const endpoint& to);
  void leave(entries::iterator it);
  void rest_if_unused(route_id id);
  void open_link(const std::string& name);
  void answer(held_link& l, const result<std::string>& path);

  void on_ready(route_id id);
  void on_room(route_id id);
  result<void> on_reply(route_id id, const frame_header& header);
  void on_closed(route_id id, const error& why);

  void pump(route_id id);
  step send_chunk(route& r, transfer_id id);

  /// Tells the sink, completes, forgets.
  void give_up(entries::iterator it, fault cause, error why);
  void complete(entries::iterator it, result<void> outcome);

  event_loop& loop_;
  completion_queue& completions_;
  outbox& pushed_;
  kv_sink& own_sink_;
  const transport_options& options_;
  handoff<std::pair<source_spec, result<void>>> opened_;
  entries entries_;
  std::map<route_id, route> routes_;
  std::map<std::string, held_link> links_;
  route_id next_route_{1};
};

} // namespace hflex::gpu
