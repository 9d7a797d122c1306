#include "actors/scaler/placement.hpp"
#include "actors/scaler/policy.hpp"
#include "actors/scaler/scaler.hpp"
#include "tests/support/catch.hpp"
#include <random>
#include <set>

namespace hflex::scaler_test {

using namespace hflex::scaler;

namespace {

constexpr auto prefill = instance_role::prefill;
constexpr auto decode = instance_role::decode;
constexpr auto mixed = instance_role::mixed;

options wanting(std::vector<fleet_line> fleet) {
  options opts;
  opts.fleet = std::move(fleet);
  opts.start_deadline = std::chrono::seconds{100};
  return opts;
}

struct desk {
  explicit desk(const options& opts) : it(make(opts)) {}
  static core make(const options& opts) {
    auto made = core::make(opts);
    REQUIRE(made);
    return std::move(*made);
  }

  /// Feeds an event; keeps the effects of this one event.
  template <class Event>
  desk& on(const Event& e) {
    out.clear();
    it.on(e, now, out);
    for (const auto& x : out)
      if (auto* w = std::get_if<wake_at>(&x)) wake = std::min(wake.value_or(w->when), w->when);
    return *this;
  }
  template <class Effect>
  std::vector<Effect> all() const {
    std::vector<Effect> found;
    for (const auto& x : out)
      if (auto* e = std::get_if<Effect>(&x)) found.push_back(*e);
    return found;
  }
  std::vector<start_instance> starts() const { return all<start_instance>(); }

  void node(std::uint32_t id, std::uint32_t devices, std::uint32_t per_device = 1) {
    node_up e{{id}, {}, {}};
    for (std::uint32_t i = 0; i < devices; ++i) e.devices.push_back({i, per_device});
    on(e);
  }
  /// What the last event started becomes ready.
  void make_ready() {
    for (const auto& s : starts()) ready(s.instance.value);
  }
  void ready(std::uint32_t id) { on(instance_state{{id}, instance_phase::ready, ""}); }
  void failed(std::uint32_t id) { on(instance_state{{id}, instance_phase::failed, "out of memory"}); }
  void gone(std::uint32_t id) { on(instance_state{{id}, instance_phase::gone, "killed"}); }
  void after(duration d) { now += d; }
  std::uint32_t count(instance_role role) const {
    std::uint32_t n = 0;
    for (const auto& [id, i] : it.state().instances) n += i.role == role && i.phase != life::stopping ? 1 : 0;
    return n;
  }

  time_point now{std::chrono::seconds{1000}};
  core it;
  std::vector<effect> out;
  std::optional<time_point> wake;
};

// Two nodes with two devices each, one prefill and one decode instance, ready.
desk ready_pair() {
  desk d(wanting({{prefill, 1}, {decode, 1}}));
  d.node(1, 2);
  const auto first = d.starts();
  for (const auto& s : first) d.ready(s.instance.value);
  d.node(2, 2);
  return d;
}

} // namespace

TEST_CASE("the lead time of a start that serves while its weights come ends when they are there") {
  const auto lead_after = [](bool weights_coming, std::chrono::seconds rest) {
    desk d(wanting({{mixed, 1}}));
    d.node(1, 1);
    REQUIRE(d.starts().size() == 1);
    d.now += std::chrono::seconds{2};
    d.on(instance_state{{1}, instance_phase::ready, "", weights_coming});
    const auto when_ready = d.it.state().lead_time;
    d.now += rest;
    d.on(weights_there{{1}});
    d.on(weights_there{{1}}); // told again: the start was measured already
    return std::pair{when_ready, d.it.state().lead_time};
  };
  const auto before = options{}.lead_time;
  const auto whole = lead_after(false, std::chrono::seconds{28});
  CHECK(whole.first < before);
  CHECK(whole.second == whole.first);
  const auto loading = lead_after(true, std::chrono::seconds{28});
  CHECK(loading.first == before);
  CHECK(loading.second > before); // 30 s, where 10 were expected
}

TEST_CASE("the configured fleet is started as soon as nodes have room for it") {
  desk d(wanting({{prefill, 1}, {decode, 2}}));
  d.node(1, 2);
  CHECK(d.starts().size() == 2);
  CHECK(d.count(prefill) == 1); // one of each before a second of one
  CHECK(d.count(decode) == 1);
  d.node(2, 1);
  REQUIRE(d.starts().size() == 1);
  CHECK(d.starts()[0].role == decode);
  CHECK(d.starts()[0].device == device_id{{2}, 0});
}

TEST_CASE("prefill and decode start on different nodes when there are two") {
  fleet_view v;
  for (std::uint32_t n = 1; n <= 2; ++n) v.nodes[{n}].devices[0].max_instances = 4;
  std::uint32_t id = 1;
  std::map<instance_role, std::set<node_id>> nodes;
  for (auto role : {prefill, decode, prefill, decode}) { // the order in which the core fills a fleet
    const auto device = place_instance(v, role, {});
    REQUIRE(device);
    v.instances[{id++}] = {*device, role, life::starting, {}};
    nodes[role].insert(device->node);
  }
  CHECK(nodes[prefill] == std::set<node_id>{{1}});
  CHECK(nodes[decode] == std::set<node_id>{{2}});
}

TEST_CASE("mixed instances spread over nodes and devices") {
  fleet_view v;
  for (std::uint32_t n = 1; n <= 2; ++n)
    for (std::uint32_t i = 0; i < 2; ++i) v.nodes[{n}].devices[i].max_instances = 2;
  std::set<device_id> devices;
  for (std::uint32_t id = 1; id <= 4; ++id) {
    const auto device = place_instance(v, mixed, {});
    REQUIRE(device);
    v.instances[{id}] = {*device, mixed, life::starting, {}};
    devices.insert(*device);
    if (id == 2) CHECK(devices.begin()->node != devices.rbegin()->node);
  }
  CHECK(devices.size() == 4);
}

TEST_CASE("a dead instance is replaced and its number is not used again") {
  auto d = ready_pair();
  d.after(std::chrono::hours{1});
  d.gone(1);
  REQUIRE(d.starts().size() == 1);
  CHECK(d.starts()[0].role == d.it.state().instances.at(d.starts()[0].instance).role);
  CHECK(d.starts()[0].instance.value > 2);
  CHECK(d.count(prefill) == 1);
  CHECK(d.count(decode) == 1);
}

TEST_CASE("the replacement of a prefill instance keeps away from the decode instance's node") {
  auto d = ready_pair(); // both on node 1
  d.after(std::chrono::hours{1});
  for (const auto& [id, i] : d.it.state().instances)
    if (i.role == prefill) {
      d.gone(id.value);
      break;
    }
  REQUIRE(d.starts().size() == 1);
  CHECK(d.starts()[0].role == prefill);
  CHECK(d.starts()[0].device.node == node_id{2});
}

TEST_CASE("a node that is gone has its instances replaced on another") {
  desk d(wanting({{mixed, 2}}));
  d.node(1, 2);
  d.make_ready();
  d.node(2, 2);
  d.on(node_gone{{1}});
  REQUIRE(d.starts().size() == 2);
  for (const auto& s : d.starts()) CHECK(s.device.node == node_id{2});
}

TEST_CASE("a failed start is tried on another device while the first one rests") {
  desk d(wanting({{mixed, 1}}));
  d.node(1, 2);
  const auto first = d.starts().at(0);
  d.failed(first.instance.value);
  REQUIRE(d.starts().size() == 1);
  CHECK(d.starts()[0].device != first.device);
}

TEST_CASE("the backoff of a device that keeps failing doubles up to its cap") {
  auto opts = wanting({{mixed, 1}});
  opts.backoff_first = std::chrono::seconds{1};
  opts.backoff_max = std::chrono::seconds{5};
  desk d(opts);
  d.node(1, 1);
  std::vector<double> pauses;
  for (int i = 0; i < 5; ++i) {
    const auto id = d.starts().at(0).instance.value;
    d.wake.reset();
    const auto failed_at = d.now;
    d.failed(id);
    CHECK(d.starts().empty());
    // The earliest wake-up under way may be the deadline of an earlier start: ticks are harmless.
    for (int ticks = 0; d.starts().empty() && ticks < 10; ++ticks) {
      REQUIRE(d.wake);
      d.now = std::max(d.now, *d.wake);
      d.wake.reset();
      d.on(tick{});
    }
    pauses.push_back(to_s(d.now - failed_at));
  }
  CHECK(pauses == std::vector<double>{1, 2, 4, 5, 5});
}

TEST_CASE("a start past its deadline is stopped and tried elsewhere, its slot stays taken until it is gone") {
  desk d(wanting({{mixed, 1}}));
  d.node(1, 2);
  const auto slow = d.starts().at(0);
  REQUIRE(d.wake);
  CHECK(*d.wake == d.now + std::chrono::seconds{100});
  d.after(std::chrono::seconds{100});
  d.on(tick{});
  REQUIRE(d.all<stop_instance>().size() == 1);
  CHECK(d.all<stop_instance>()[0].instance == slow.instance);
  CHECK_FALSE(d.all<stop_instance>()[0].drain);
  REQUIRE(d.starts().size() == 1);
  const auto second = d.starts()[0];
  CHECK(second.device != slow.device);
  d.failed(second.instance.value); // its device rests, the other one is still held
  CHECK(d.starts().empty());
  d.after(std::chrono::seconds{10});
  d.gone(slow.instance.value);
  CHECK(d.starts().size() == 1);
  d.ready(slow.instance.value); // too late: unknown by now
  CHECK(d.count(mixed) == 1);
}

TEST_CASE("a role change is carried out and not undone") {
  desk d(wanting({{prefill, 2}, {decode, 1}}));
  d.node(1, 3);
  d.make_ready();
  for (std::uint32_t id = 1; id <= 3; ++id) d.ready(id);
  instance_id flipped;
  for (const auto& [id, i] : d.it.state().instances)
    if (i.role == prefill) flipped = id;
  d.on(request_role_change{flipped, decode});
  REQUIRE(d.all<change_role>().size() == 1);
  CHECK(d.all<change_role>()[0].from == prefill);
  CHECK(d.all<change_role>()[0].to == decode);
  CHECK(d.all<refuse>().empty());
  CHECK(d.starts().empty());
  CHECK(d.all<stop_instance>().empty());
  d.on(role_changed{flipped, decode});
  d.on(tick{});
  CHECK(d.starts().empty());
  CHECK(d.all<stop_instance>().empty());
  CHECK(d.count(decode) == 2);
  d.after(std::chrono::hours{1});
  d.gone(flipped.value);
  REQUIRE(d.starts().size() == 1);
  CHECK(d.starts()[0].role == decode); // what it was when it died
}

TEST_CASE("a role change that would leave nobody to prefill or to decode is refused") {
  auto d = ready_pair();
  for (const auto& [id, i] : d.it.state().instances) {
    desk again = ready_pair();
    again.on(request_role_change{id, i.role == prefill ? decode : prefill});
    REQUIRE(again.all<refuse>().size() == 1);
    CHECK(again.all<change_role>().empty());
    CHECK(again.all<refuse>()[0].reason.find(i.role == prefill ? "prefill" : "decode") != std::string::npos);
  }
  d.on(request_role_change{{1}, mixed}); // mixed does both: nothing is lost
  CHECK(d.all<change_role>().size() == 1);
}

TEST_CASE("an instance that is not ready does not count when a role change is judged") {
  desk d(wanting({{prefill, 2}, {decode, 1}}));
  d.node(1, 3);
  std::vector<std::uint32_t> prefills;
  for (const auto& s : d.starts())
    if (s.role == prefill) prefills.push_back(s.instance.value);
  d.ready(prefills.at(0));
  for (const auto& [id, i] : d.it.state().instances)
    if (i.role == decode) {
      d.ready(id.value);
      break;
    }
  d.on(request_role_change{{prefills[0]}, decode}); // the other prefill instance still starts
  CHECK(d.all<refuse>().size() == 1);
  d.on(request_role_change{{prefills[1]}, decode});
  CHECK(d.all<refuse>().size() == 1);
  d.ready(prefills[1]);
  d.on(request_role_change{{prefills[0]}, decode});
  CHECK(d.all<refuse>().empty());
  d.on(request_role_change{{prefills[1]}, decode}); // the flipping one prefills no more
  CHECK(d.all<refuse>().size() == 1);
}

TEST_CASE("commands about what does not exist are refused") {
  auto d = ready_pair();
  d.on(request_role_change{{99}, mixed});
  CHECK(d.all<refuse>().size() == 1);
  d.on(drain_instance{{99}});
  CHECK(d.all<refuse>().size() == 1);
  d.on(drain_node{{99}});
  REQUIRE(d.all<refuse>().size() == 1);
  CHECK(d.all<refuse>()[0].command == "drain n99");
}

TEST_CASE("a drained instance is not replaced") {
  desk d(wanting({{mixed, 2}}));
  d.node(1, 3);
  for (std::uint32_t id = 1; id <= 2; ++id) d.ready(id);
  d.on(drain_instance{{1}});
  REQUIRE(d.all<stop_instance>().size() == 1);
  CHECK(d.all<stop_instance>()[0].drain);
  CHECK(d.starts().empty());
  d.on(drain_instance{{1}});
  CHECK(d.all<refuse>().size() == 1);
  d.gone(1);
  CHECK(d.starts().empty());
  CHECK(d.count(mixed) == 1);
  d.gone(2); // this one died
  CHECK(d.starts().size() == 1);
}

TEST_CASE("a drained node's instances are replaced elsewhere and nothing starts on it until it joins again") {
  desk d(wanting({{mixed, 2}}));
  d.node(1, 2);
  d.make_ready();
  d.ready(2);
  d.node(2, 1);
  d.on(drain_node{{1}});
  CHECK(d.all<stop_instance>().size() == 2);
  REQUIRE(d.starts().size() == 1); // room for one of two
  CHECK(d.starts()[0].device.node == node_id{2});
  d.gone(1);
  CHECK(d.starts().empty());
  d.gone(2);
  CHECK(d.starts().empty());
  d.node(1, 2);
  CHECK(d.starts().size() == 1);
}

TEST_CASE("what a joining node runs already is adopted, the surplus drained") {
  desk d(wanting({{mixed, 2}}));
  d.on(node_up{{1}, {{0, 4}}, {{{7}, 0, mixed}, {{9}, 0, mixed}, {{8}, 0, mixed}}});
  CHECK(d.starts().empty());
  REQUIRE(d.all<stop_instance>().size() == 1);
  CHECK(d.all<stop_instance>()[0].instance == instance_id{9});
  CHECK(d.all<stop_instance>()[0].drain);
  d.after(std::chrono::hours{1});
  d.gone(7);
  REQUIRE(d.starts().size() == 1);
  CHECK(d.starts()[0].instance == instance_id{10});
}

TEST_CASE("a node that joins again without an instance has lost it") {
  desk d(wanting({{mixed, 1}}));
  d.node(1, 1);
  d.make_ready();
  d.after(std::chrono::hours{1});
  d.node(1, 1);
  CHECK(d.starts().size() == 1);
}

TEST_CASE("every decision is noted with its reason, a shortage only once") {
  desk d(wanting({{mixed, 2}}));
  d.node(1, 1);
  bool says_short = false;
  for (const auto& n : d.all<note>()) says_short = says_short || n.why.find("no device is free") != std::string::npos;
  CHECK(says_short);
  CHECK(d.all<note>().size() == 2);
  d.on(tick{});
  CHECK(d.all<note>().empty());
}

TEST_CASE("a faulty scaler option is refused") {
  auto twice = wanting({{mixed, 1}, {mixed, 2}});
  CHECK_FALSE(core::make(twice));
  options unknown;
  unknown.policy = "psychic";
  auto made = core::make(unknown);
  REQUIRE_FALSE(made);
  CHECK(made.error().message.find("fixed") != std::string::npos);
}

TEST_CASE("a fleet in random trouble never overfills a device and is whole again when the trouble ends") {
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    INFO("seed " << seed);
    std::mt19937_64 rng(seed);
    desk d(wanting({{prefill, 2}, {decode, 3}, {mixed, 1}}));
    std::map<instance_id, device_id> taken; // by the nodes' own account
    std::map<std::uint32_t, bool> up;
    const auto perform = [&] {
      for (const auto& s : d.starts()) {
        REQUIRE(up[s.device.node.value]);
        REQUIRE(taken.emplace(s.instance, s.device).second);
        int there = 0;
        for (const auto& [id, device] : taken) there += device == s.device ? 1 : 0;
        REQUIRE(there <= 2);
      }
    };
    const auto any_instance = [&] { return std::next(taken.begin(), static_cast<long>(rng() % taken.size())); };
    const auto lose_one = [&](instance_phase how) {
      const auto id = any_instance()->first;
      taken.erase(id);
      d.on(instance_state{id, how, "trouble"});
      perform();
    };
    for (int i = 0; i < 300; ++i) {
      d.after(from_ms(static_cast<double>(rng() % 5000)));
      const auto dice = rng() % 10;
      const auto n = static_cast<std::uint32_t>(1 + rng() % 3);
      if (dice == 0 && !up[n]) {
        up[n] = true;
        d.node(n, 3, 2);
      } else if (dice == 1 && rng() % 3 == 0) {
        up[n] = false;
        for (auto it = taken.begin(); it != taken.end();)
          it = it->second.node.value == n ? taken.erase(it) : std::next(it);
        d.on(node_gone{{n}});
      } else if (dice < 5 && !taken.empty())
        d.ready(any_instance()->first.value);
      else if (dice == 5 && !taken.empty()) {
        lose_one(rng() % 2 == 0 ? instance_phase::failed : instance_phase::gone);
        continue;
      } else if (dice == 6 && !taken.empty()) {
        const auto id = any_instance()->first;
        const auto role = instance_role(rng() % 3);
        d.on(request_role_change{id, role});
        if (!d.all<change_role>().empty()) {
          perform();
          d.on(role_changed{id, role});
        }
      } else
        d.on(tick{});
      perform();
    }
    for (std::uint32_t n = 1; n <= 3; ++n)
      if (!up[n]) {
        up[n] = true;
        d.node(n, 3, 2);
        perform();
      }
    for (int i = 0; i < 50; ++i) {
      d.after(std::chrono::seconds{70});
      const auto now_there = taken;
      for (const auto& [id, device] : now_there) {
        const auto& known = d.it.state().instances;
        if (known.count(id) && known.at(id).phase == life::stopping) {
          taken.erase(id);
          d.gone(id.value);
        } else
          d.ready(id.value);
        perform();
      }
      d.on(tick{});
      perform();
    }
    CHECK(d.count(prefill) + d.count(decode) + d.count(mixed) == 6);
    for (const auto& [role, want] : d.it.state().configured) CHECK(d.count(role) == want);
    for (const auto& [id, i] : d.it.state().instances) CHECK(i.phase == life::ready);
  }
}

TEST_CASE("the first placement waits for the expected nodes, but not for ever") {
  auto opts = wanting({{prefill, 1}, {decode, 1}});
  opts.expect_nodes = 2;
  opts.expect_for = std::chrono::seconds{5};
  auto starts = [](const std::vector<effect>& out) {
    std::vector<node_id> nodes;
    for (const auto& e : out)
      if (const auto* s = std::get_if<start_instance>(&e)) nodes.push_back(s->device.node);
    return nodes;
  };
  desk d{opts};
  d.on(node_up{node_id{1}, {{0, 4}}, {}});
  CHECK(starts(d.out).empty());
  REQUIRE(d.wake);
  SECTION("they are all there: one instance on each") {
    d.on(node_up{node_id{2}, {{0, 4}}, {}});
    CHECK(starts(d.out) == std::vector<node_id>{node_id{1}, node_id{2}});
    d.on(node_gone{node_id{2}});
    CHECK(starts(d.out) == std::vector<node_id>{node_id{1}}); // the dead one's replacement does not wait
  }
  SECTION("one does not come: placed without it when the time is over") {
    d.now = *d.wake;
    d.on(tick{});
    CHECK(starts(d.out) == std::vector<node_id>{node_id{1}, node_id{1}});
  }
}

} // namespace hflex::scaler_test
