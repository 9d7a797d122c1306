// When an instance is admitted: which counterparts it is introduced to, which KV links must be open first, and what
// happens when one of them does not open. Called by the cluster's shell, one event at a time. It places nothing, and
// keeps no bytes: those are the cluster core's.
//
//   newcomer (a start, or a new role) --introduce both ways--> links opening --all answered--> admit
//                                                                    '-- deadline: failed, and admitted without them
// After a change of role, in the same process, the ways that were open and are still wanted are: only others are waited
// for, and the links keep their bytes.
//
// A link goes one way: who sends KV opens it, and says so. A newcomer waits for its own links and for those of its
// counterparts to it. Nobody waits for a counterpart that drains: it takes and sends nothing new, and its links open
// with the first transfer if residents move. A transfer opens its own way, too, so an instance whose links failed
// works, only later; and one that cannot be reached at all must not keep the others from serving.
#pragma once
#include "actors/common/ids.hpp"
#include "actors/common/request.hpp"
#include "actors/common/time.hpp"
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace hflex::cluster {

/// A prefill instance hands its sequences to every instance that decodes; those move sequences among each other.
constexpr bool wants_kv_link(instance_role, instance_role to) { return can_decode(to); }

/// One round of introductions; an answer that names another one is about an actor or a role that is no more.
using link_round = std::uint64_t;

// ---- events ----

/// An actor that takes work, or would: the first of its instance, or the next after a change of role.
struct newcomer {
  instance_id instance{};
  instance_role role{};
  bool same_home{false}; ///< in the process of its former actor
};
/// What came of opening the way from `from` to `to`, as `from` says.
struct link_answer {
  instance_id from{};
  instance_id to{};
  link_round round{};
  bool open{false};
  std::string transport; ///< when open: "local", "shm", "tcp"
  std::string reason;    ///< when not
};
struct link_draining {
  instance_id instance{};
};
struct link_end_gone {
  instance_id instance{};
};
struct link_tick {};

// ---- effects ----

/// Tell `to` of its counterpart `peer`. `sends`: it is to open the way there and to answer with this round.
struct introduce {
  instance_id to{};
  instance_id peer{};
  bool sends{false};
  link_round round{};
};
enum class link_state : std::uint8_t { opening, open, failed, closed };
std::string_view to_string(link_state s);
struct show_link {
  instance_id from{};
  instance_id to{};
  link_state is{};
  std::string detail; ///< transport, or reason
};
/// It takes work from now on. `waited`: for its links.
struct admit {
  instance_id instance{};
  duration waited{};
};
struct link_wake_at {
  time_point time{};
};
using link_effect = std::variant<introduce, show_link, admit, link_wake_at>;

struct linking_options {
  duration deadline{std::chrono::seconds{2}}; ///< of all links of a newcomer together
};

class linking {
public:
  explicit linking(linking_options options) : options_(options) {}

  void on(const newcomer& e, time_point now, std::vector<link_effect>& out);
  void on(const link_answer& e, time_point now, std::vector<link_effect>& out);
  void on(const link_draining& e, time_point now, std::vector<link_effect>& out);
  void on(const link_end_gone& e, time_point now, std::vector<link_effect>& out);
  void on(const link_tick& e, time_point now, std::vector<link_effect>& out);

  /// Admitted, and not gone since.
  bool admitted(instance_id id) const;

private:
  struct end {
    instance_role role{};
    bool draining{false};
    bool admitted{false};
    time_point since{};
  };
  using way = std::pair<instance_id, instance_id>;
  struct link {
    link_round round{};
    link_state is{link_state::opening};
  };
  using effects = std::vector<link_effect>;

  void open(instance_id from, instance_id to, bool is_open, effects& out);
  void set(const way& between, link_state is, std::string detail, effects& out);
  std::set<way> open_ways(instance_id id) const;
  template <class Keep>
  void drop_links(instance_id id, const Keep& keep, effects& out);
  bool waits(instance_id id) const;
  void settle(time_point now, effects& out);

  linking_options options_;
  link_round last_round_{0};
  std::map<instance_id, end> ends_;
  std::map<way, link> links_;
  std::optional<time_point> announced_;
};

} // namespace hflex::cluster
