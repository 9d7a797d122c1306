#include "tools/bench/role.hpp"
#include "actors/cluster/topology.hpp"
#include "actors/wire/convert.hpp"
#include "actors/wire/convert_topology.hpp"
#include "tools/bench/load_client.hpp"
#include "tools/bench/prompt_maker.hpp"
#include <algorithm>
#include <future>
#include <map>
#include <set>
#include <utility>

namespace hflex::bench {
namespace {

namespace s = wire::schema;
using wire::msg;
using wall_clock = std::chrono::steady_clock;

/// Requests that are ready to be sent; they share this many prompts, far more than are under way.
constexpr std::size_t most_requests = 200'000;
constexpr std::size_t different_prompts = 1024;

/// The same work all the time. Its targets are such that nothing is shed for being late: the queue is the load.
result<std::vector<offered_request>> make_load(const role_options& o) {
  auto tokenizer = gpu::tokenizer::load(o.model);
  if (!tokenizer) return pass(tokenizer.error());
  auto prompts = prompt_maker::make(*tokenizer);
  if (!prompts) return pass(prompts.error());
  const slo_targets slo{std::chrono::minutes{10}, std::chrono::seconds{5}, {}, 1.0, late_action::serve_late};
  std::vector<msg<s::SubmitJob>> jobs;
  for (std::size_t i = 0; i < different_prompts; ++i) {
    sim::request r;
    r.prompt_tokens = std::max(o.prompt_tokens, prompts->fewest_tokens());
    const auto text = prompts->text(r, i + o.seed * different_prompts, 512);
    jobs.push_back(msg<s::SubmitJob>::make(
        [&](s::SubmitJob::Builder to) {
          to.setPrompt(text);
          to.setMaxOutputTokens(o.output_tokens);
          to.setIgnoreEos(true);
          to.setTtftTargetMs(to_ms(slo.ttft));
          to.setTpotTargetMs(to_ms(slo.tpot));
        },
        64 + text.size() / 8));
  }
  std::vector<offered_request> load;
  load.reserve(most_requests);
  for (std::size_t i = 0; i < most_requests; ++i) load.push_back({duration{0}, jobs[i % jobs.size()], slo, {}});
  return load;
}

/// The fleet as its topology has it, kept up to date by events.
class fleet_watch {
public:
  fleet_watch(runtime::head_client& client, const role_options& o) : client_(client), o_(o) {}

  result<void> begin() {
    auto snapshot = look();
    if (!snapshot) return pass(snapshot.error());
    auto ok = client_.ask<msg<s::Ack>>(client_.cluster(), o_.answer_timeout,
        msg<s::Subscribe>::make([&](s::Subscribe::Builder out) { out.setAfterEvent(last_event_); }), client_.self());
    if (!ok) return pass(ok.error());
    return until([this] { return ready() >= o_.instances; }, "the instances are ready");
  }

  const std::map<instance_id, instance_role>& roles() const { return roles_; }
  std::uint64_t starts() const { return starts_; }

  /// Waits, event by event, until the instance serves in that role.
  result<void> until_serves(instance_id id, instance_role role) {
    return until([&] { return state_[id] == "ready" && roles_[id] == role; },
        fmt::format("{} serves as {}", to_string(id), to_string(role)));
  }

private:
  std::size_t ready() const {
    return static_cast<std::size_t>(
        std::count_if(state_.begin(), state_.end(), [](const auto& i) { return i.second == "ready"; }));
  }

  result<void> look() {
    auto answer = client_.ask<msg<s::Snapshot>>(client_.cluster(), o_.answer_timeout, msg<s::SnapshotQuery>{});
    if (!answer) return pass(answer.error());
    last_event_ = answer->read()->getLastEvent();
    const auto view = wire::read(*answer->read());
    roles_.clear();
    state_.clear();
    for (const auto& a : view.actors) {
      if (a.kind != "instance") continue;
      const instance_id id{static_cast<std::uint32_t>(std::stoul(a.id.substr(1)))};
      roles_[id] = parse_instance_role(a.role).value_or(instance_role::mixed);
      state_[id] = a.state;
    }
    return {};
  }

  template <class Predicate>
  result<void> until(const Predicate& holds, const std::string& what) {
    const auto deadline = wall_clock::now() + o_.longest_flip;
    while (!holds()) {
      if (o_.stopped && o_.stopped()) return fail(errc::fatal, "stopped");
      if (wall_clock::now() >= deadline)
        return fail(errc::retry, "it took more than {:.0f} s until {}", to_s(o_.longest_flip), what);
      const auto event = client_.events().take(std::chrono::milliseconds{100});
      if (!event) continue;
      if (const auto* lost = std::get_if<runtime::head_lost>(&*event))
        return fail(errc::reroute, "the head is gone: {}", lost->reason);
      if (const auto* e = std::get_if<msg<s::Event>>(&*event)) {
        const auto change = wire::read(*e->read());
        if (change.what == cluster::change::actor_up && change.subject.starts_with('i')) ++starts_;
        if (auto seen = look(); !seen) return seen;
      }
    }
    return {};
  }

  runtime::head_client& client_;
  const role_options& o_;
  std::map<instance_id, instance_role> roles_;
  std::map<instance_id, std::string> state_;
  std::uint64_t last_event_{};
  std::uint64_t starts_{};
};

instance_role after(instance_role r) {
  switch (r) {
  case instance_role::mixed:
    return instance_role::prefill;
  case instance_role::prefill:
    return instance_role::decode;
  case instance_role::decode:
    break;
  }
  return instance_role::mixed;
}

/// The next role in the circle that leaves somebody to prefill and somebody to decode.
instance_role next_role(const std::map<instance_id, instance_role>& roles, instance_id id) {
  auto to = after(roles.at(id));
  for (;; to = after(to)) {
    bool prefill = can_prefill(to), decode = can_decode(to);
    for (const auto& [other, role] : roles) {
      if (other == id) continue;
      prefill = prefill || can_prefill(role);
      decode = decode || can_decode(role);
    }
    if (prefill && decode) return to;
  }
}

class flipper {
public:
  flipper(runtime::head_client& client, fleet_watch& fleet, const role_options& o)
      : client_(client), fleet_(fleet), o_(o) {}

  result<role_flip> flip(std::uint32_t index) {
    auto which = fleet_.roles().begin();
    std::advance(which, index % fleet_.roles().size());
    role_flip f{which->first, which->second, next_role(fleet_.roles(), which->first), 0, 0};
    auto before = last_decision();
    if (!before) return pass(before.error());
    auto answer = client_.ask<msg<s::CommandAnswer>>(
        client_.scaler(), o_.answer_timeout, msg<s::ChangeRole>::make([&](s::ChangeRole::Builder out) {
          out.setInstance(f.instance.value);
          out.setTo(wire::to_wire(f.to));
        }));
    if (!answer) return pass(answer.error());
    if (!answer->read()->getOk())
      return fail(errc::retry, "the scaler refused: {}", wire::read(answer->read()->getMessage()));
    if (auto ok = fleet_.until_serves(f.instance, f.to); !ok) return pass(ok.error());
    if (auto ok = read_times(f, *before); !ok) return pass(ok.error());
    return f;
  }

private:
  result<msg<s::ScalingLog>> log() {
    return client_.ask<msg<s::ScalingLog>>(client_.scaler(), o_.answer_timeout, msg<s::ScalingQuery>{});
  }

  result<std::uint64_t> last_decision() {
    auto answer = log();
    if (!answer) return pass(answer.error());
    std::uint64_t last = 0;
    for (auto d : answer->read()->getDecisions()) last = std::max(last, d.getNumber());
    return last;
  }

  /// The scaler was told before the watchers were; its note of this flip is the only one after `before` with a drain.
  result<void> read_times(role_flip& f, std::uint64_t before) {
    auto answer = log();
    if (!answer) return pass(answer.error());
    bool found = false;
    for (auto d : answer->read()->getDecisions()) {
      if (d.getNumber() <= before) continue;
      for (auto n : d.getNumbers()) {
        if (n.getName() == "flip_ms") f.all_ms = n.getValue();
        if (n.getName() == "drain_ms") f.drain_ms = n.getValue();
        found = found || n.getName() == "drain_ms";
      }
    }
    if (!found) return fail(errc::fatal, "the scaler says nothing about the flip of {}", to_string(f.instance));
    return {};
  }

  runtime::head_client& client_;
  fleet_watch& fleet_;
  const role_options& o_;
};

void count(const std::vector<seen_request>& seen, role_report& report) {
  std::set<std::string> reasons;
  for (const auto& r : seen) {
    ++report.requests;
    report.tokens += r.record.token_times.size();
    report.migrations += r.migrations;
    report.handed_back += r.retries;
    if (r.record.result == outcome::finished) {
      ++report.finished;
    } else {
      ++report.failed;
      reasons.insert(r.reason);
    }
  }
  report.reasons.assign(reasons.begin(), reasons.end());
}

/// A thread that offers load until told that it is enough.
class running_load {
public:
  running_load(const role_options& o, std::vector<offered_request> load, std::uint32_t concurrency)
      : enough_(std::make_shared<std::atomic<bool>>(false)),
        seen_(std::async(std::launch::async, [this, &o, concurrency, l = std::move(load)]() mutable {
          auto seen = offer(o, std::move(l), concurrency);
          say_full();
          return seen;
        })) {}
  running_load(const running_load&) = delete;
  running_load& operator=(const running_load&) = delete;
  ~running_load() { *enough_ = true; }

  bool over() const { return seen_.wait_for(std::chrono::seconds{0}) == std::future_status::ready; }
  /// Waits until as many are under way as may be, and have been for as many that have ended; or it is over.
  void until_full() { full_.get_future().wait(); }
  result<std::vector<seen_request>> finish() {
    *enough_ = true;
    return seen_.get();
  }

private:
  result<std::vector<seen_request>> offer(
      const role_options& o, std::vector<offered_request> load, std::uint32_t concurrency) {
    auto client = runtime::head_client::connect(o.head, o.answer_timeout);
    if (!client) return pass(client.error());
    load_settings settings;
    settings.max_concurrency = concurrency;
    settings.enough = enough_;
    settings.longest_end = std::chrono::hours{24};
    settings.on_progress = [&](const load_progress& p) {
      if (p.ended > concurrency) say_full();
      return !(o.stopped && o.stopped());
    };
    return offer_load(**client, std::move(load), settings);
  }

  void say_full() {
    if (!std::exchange(said_, true)) full_.set_value();
  }

  std::shared_ptr<std::atomic<bool>> enough_;
  std::promise<void> full_;
  bool said_{false}; ///< the thread's own
  std::future<result<std::vector<seen_request>>> seen_;
};

} // namespace

result<role_report> measure_roles(const role_options& o, const std::function<void(const role_flip&)>& on_flip) {
  auto load = make_load(o);
  if (!load) return pass(load.error());
  auto client = runtime::head_client::connect(o.head, o.answer_timeout);
  if (!client) return pass(client.error());
  fleet_watch fleet(**client, o);
  if (auto ok = fleet.begin(); !ok) return pass(ok.error());
  if (fleet.roles().size() < 2) return fail(errc::reject, "a fleet of one instance cannot change its roles");
  role_report report;
  const auto instances = static_cast<std::uint32_t>(fleet.roles().size());
  report.concurrency = o.concurrency > 0 ? o.concurrency : 16 * instances;
  const auto starts_before = fleet.starts();
  const auto begun = wall_clock::now();
  running_load offered(o, std::move(*load), report.concurrency);
  offered.until_full();
  flipper by_hand(**client, fleet, o);
  for (std::uint32_t i = 0; i < o.flips && !offered.over(); ++i) {
    auto flip = by_hand.flip(i);
    if (!flip) return pass(flip.error());
    report.flips.push_back(*flip);
    on_flip(*flip);
  }
  auto seen = offered.finish();
  if (!seen) return pass(seen.error());
  if (report.flips.size() < o.flips)
    return fail(
        errc::retry, "{} requests had ended after {} flips: give them more tokens", seen->size(), report.flips.size());
  report.wall_s = std::chrono::duration<double>(wall_clock::now() - begun).count();
  report.loads = fleet.starts() - starts_before;
  count(*seen, report);
  return report;
}

} // namespace hflex::bench
