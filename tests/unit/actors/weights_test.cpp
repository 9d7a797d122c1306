#include "actors/weights/weights.hpp"
#include "tests/unit/actors/effects_of.hpp"
#include <map>
#include <random>
#include <set>

namespace hflex::weights_test {

using namespace hflex::weights;
using namespace std::chrono_literals;
using hflex::test::all;
using hflex::test::count;
using hflex::test::only;

namespace {

constexpr node_id n1{1};
constexpr node_id n2{2};
constexpr node_id n3{3};

options quick() {
  options o;
  o.same_process_stall = 1s;
  o.shared_memory_stall = 2s;
  o.disk_stall = 10s;
  o.max_wait = 60s;
  o.max_loads = 4;
  return o;
}

struct bench {
  core c{quick()};
  time_point now{1s};
  std::vector<effect> out{};

  template <class Event>
  std::vector<effect>& on(const Event& e, duration later = {}) {
    now += later;
    out.clear();
    c.on(e, now, out);
    return out;
  }
  /// Instance `i` on `node`, of host "h1" unless told otherwise.
  std::vector<effect>& need(std::uint32_t i, node_id node, const std::string& digest = "d",
      const std::string& host = "h1", const std::string& directory = "/m", const std::string& stamp = "") {
    return on(needed{{i}, node, host, digest, directory, stamp});
  }
  load_from sent() { return only<load_from>(out); }
};

bool says(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

} // namespace

TEST_CASE("weights come from the cheapest source: own process, then a neighbour's memory, then the disk") {
  bench b;
  b.need(1, n1);
  CHECK(b.sent().from.kind == source_kind::disk);
  CHECK(b.sent().from.directory == "/m");
  CHECK(b.sent().from.digest == "d");
  b.on(held{n2, "h1", "d", {"shm:h1:x"}, 100});
  b.need(2, n3);
  CHECK(b.sent().from.kind == source_kind::shared_memory);
  CHECK(b.sent().from.holder == n2);
  CHECK(b.sent().from.endpoints == std::vector<std::string>{"shm:h1:x"});
  b.need(3, n2);
  CHECK(b.sent().from.kind == source_kind::same_process);
  CHECK(b.c.holders("d") == std::vector<holder_view>{{n2, "h1", 100}});
}

TEST_CASE("a newcomer hears of the other processes of its host that hold the weights, whatever its source") {
  bench b;
  b.on(held{n1, "h1", "d", {"shm:h1:x", "tcp:h1:1"}, 100});
  b.on(held{n2, "h1", "d", {"shm:h1:y"}, 100});
  b.on(held{n3, "h2", "d", {"shm:h2:z"}, 100});
  b.need(1, n2);
  CHECK(b.sent().from.kind == source_kind::same_process);
  CHECK(b.sent().neighbours == std::vector<std::string>{"shm:h1:x", "tcp:h1:1"});
  b.need(2, {9});
  CHECK(b.sent().from.kind == source_kind::shared_memory);
  CHECK(b.sent().neighbours == std::vector<std::string>{"shm:h1:x", "tcp:h1:1", "shm:h1:y"});
  b.need(3, {9}, "other");
  CHECK(b.sent().neighbours.empty());
}

TEST_CASE("memory of another host, of a node without endpoints or of another digest is no source") {
  bench b;
  b.on(held{n1, "h2", "d", {"shm:h2:x"}, 100});
  b.on(held{n2, "h1", "d", {}, 100});
  b.on(held{n3, "h1", "other", {"shm:h1:y"}, 100});
  b.need(1, {4});
  CHECK(b.sent().from.kind == source_kind::disk);
}

TEST_CASE("a failed source is followed by the next, and the last failure by the whole story") {
  bench b;
  b.on(held{n1, "h1", "d", {"shm:a"}, 100});
  b.on(held{n2, "h1", "d", {"shm:b"}, 100});
  b.need(1, n1);
  CHECK(b.sent().from.kind == source_kind::same_process);
  b.on(failed{{1}, 1, "not there any more"});
  CHECK(b.sent().from.holder == n2);
  CHECK(b.sent().attempt == 2);
  CHECK(b.on(failed{{1}, 1, "late word of the first attempt"}).empty());
  b.on(failed{{1}, 2, "refused"});
  CHECK(b.sent().from.kind == source_kind::disk);
  b.on(failed{{1}, 3, "no such file"});
  CHECK(only<give_up>(b.out).reason ==
        "no source of weights is left; same_process (n1): not there any more; shared_memory (n2): refused; "
        "disk (/m): no such file");
  CHECK(b.c.loads().empty());
}

TEST_CASE("a source that makes no progress within its deadline is abandoned") {
  bench b;
  b.on(held{n2, "h1", "d", {"shm:b"}, 100});
  b.need(1, n1);
  CHECK(only<wake_at>(b.out).time == b.now + 2s);
  b.on(progress{{1}, 1, 50, 100}, 1s);
  b.on(progress{{1}, 1, 50, 100}, 1s); // says nothing new
  CHECK(count<stop_load>(b.on(tick{})) == 0);
  CHECK(only<wake_at>(b.out).time == b.now + 1s);
  b.on(tick{}, 1s);
  CHECK(only<stop_load>(b.out).attempt == 1);
  CHECK(b.sent().from.kind == source_kind::disk);
  CHECK(b.on(progress{{1}, 1, 100, 100}).empty());
  CHECK(b.c.loads()[0].bytes_done == 0);
  b.on(tick{}, 10s);
  CHECK(says(only<give_up>(b.out).reason, "no progress for 2 s at 50 of 100 bytes"));
}

TEST_CASE("a source whose node dies midway is replaced") {
  bench b;
  b.on(held{n2, "h1", "d", {"shm:b"}, 100});
  b.on(held{n3, "h1", "d", {"shm:c"}, 100});
  b.need(1, n1);
  CHECK(b.sent().from.holder == n2);
  b.on(node_gone{n2});
  CHECK(only<stop_load>(b.out).instance == instance_id{1});
  CHECK(b.sent().from.holder == n3);
  b.on(released{n3, "d"});
  CHECK(b.sent().from.kind == source_kind::disk);
  CHECK(b.c.holders("d").empty());
}

TEST_CASE("two newcomers of one host read the disk once and share the memory") {
  bench b;
  b.need(1, n1);
  b.need(2, n2);
  CHECK(count<load_from>(b.out) == 0);
  b.need(3, n1);
  CHECK(count<load_from>(b.out) == 0);
  CHECK(b.c.loads()[1] == load_view{{2}, n2, std::nullopt, 0, 0, 0});
  b.on(loaded{{1}, 1, "d", {"shm:a"}, 100}, 5s);
  CHECK(only<ready>(b.out).waited == 5s);
  CHECK(only<ready>(b.out).from == source_kind::disk);
  auto next = all<load_from>(b.out);
  REQUIRE(next.size() == 2);
  CHECK(next[0].from.kind == source_kind::shared_memory);
  CHECK(next[0].from.holder == n1);
  CHECK(next[1].from.kind == source_kind::same_process);
}

TEST_CASE("newcomers of different hosts or digests do not wait for each other") {
  bench b;
  b.need(1, n1);
  CHECK(count<load_from>(b.need(2, n2, "d", "h2")) == 1);
  CHECK(count<load_from>(b.need(3, n3, "other")) == 1);
}

TEST_CASE("a newcomer stops waiting when the load it waits for ends without success") {
  bench b;
  b.need(1, n1);
  b.need(2, n2);
  SECTION("failed") { b.on(failed{{1}, 1, "bad disk"}); }
  SECTION("stopped") {
    b.on(not_needed{{1}});
    CHECK(only<stop_load>(b.out).instance == instance_id{1});
  }
  SECTION("its node is gone") { b.on(node_gone{n1}); }
  SECTION("stalled") { b.on(tick{}, 10s); }
  CHECK(b.sent().instance == instance_id{2});
  CHECK(b.sent().from.kind == source_kind::disk);
  CHECK(b.c.loads().size() == 1);
}

TEST_CASE("waiting for a neighbour's load is bounded") {
  bench b;
  b.need(1, n1);
  b.need(2, n2);
  for (std::uint64_t i = 1; i < 12; ++i) {
    b.on(progress{{1}, 1, i, 100}, 5s);
    CHECK(count<load_from>(b.on(tick{})) == 0);
  }
  b.on(progress{{1}, 1, 12, 100}, 5s);
  b.on(tick{});
  CHECK(b.sent().instance == instance_id{2});
  CHECK(count<stop_load>(b.out) == 0);
}

TEST_CASE("weights with another digest than wanted are never taken") {
  bench b;
  b.need(1, n1, "d");
  b.on(loaded{{1}, 1, "changed", {"shm:a"}, 100});
  CHECK(says(only<give_up>(b.out).reason, "it holds weights changed, wanted d"));
  CHECK(count<ready>(b.out) == 0);
  CHECK(b.c.holders("changed").empty());
}

TEST_CASE("a newcomer that knows no digest shares only with those that load the directory with it") {
  bench b;
  b.on(held{n3, "h1", "d", {"shm:c"}, 100}); // may hold what the directory held yesterday
  b.need(1, n1, "");
  CHECK(b.sent().from.kind == source_kind::disk);
  CHECK(b.sent().from.digest.empty());
  CHECK(count<load_from>(b.need(2, n2, "")) == 0);
  CHECK(count<load_from>(b.need(3, n2, "", "h1", "/other")) == 1);
  b.on(loaded{{1}, 1, "d2", {"shm:a"}, 100});
  CHECK(b.sent().instance == instance_id{2});
  CHECK(b.sent().from.digest == "d2");
  CHECK(b.sent().from.holder == n1);
  b.on(loaded{{2}, 1, "d", {}, 100});
  CHECK(count<ready>(b.out) == 0); // it was promised d2
}

TEST_CASE("a newcomer takes the memory of a neighbour that read the same unchanged directory long ago") {
  bench b;
  b.need(1, n1, "", "h1", "/m", "monday");
  b.on(loaded{{1}, 1, "d", {"shm:a"}, 100});
  b.need(2, n2, "", "h1", "/m", "monday");
  CHECK(b.sent().from.kind == source_kind::shared_memory);
  CHECK(b.sent().from.digest == "d");
  for (auto [host, directory, stamp] :
      {std::tuple{"h1", "/m", "tuesday"}, {"h2", "/m", "monday"}, {"h1", "/n", "monday"}}) {
    b.need(3, n3, "", host, directory, stamp);
    CHECK(b.sent().from.kind == source_kind::disk);
    CHECK(b.sent().from.digest.empty());
    b.on(not_needed{{3}});
  }
  b.on(released{n1, "d"});
  CHECK(b.sent().from.kind == source_kind::disk);
}

TEST_CASE("two newcomers wait for one read of a directory only while its files stay the same") {
  bench b;
  b.need(1, n1, "", "h1", "/m", "monday");
  CHECK(count<load_from>(b.need(2, n2, "", "h1", "/m", "monday")) == 0);
  CHECK(count<load_from>(b.need(3, n3, "", "h1", "/m", "tuesday")) == 1);
}

TEST_CASE("loads are bounded and a second request of an instance is ignored") {
  bench b;
  for (std::uint32_t i = 1; i <= 4; ++i) b.need(i, n1);
  CHECK(b.need(2, n1).empty());
  CHECK(says(only<give_up>(b.need(5, n1)).reason, "limit 4"));
}

TEST_CASE("no directory and no holder is given up at once") {
  bench b;
  b.need(1, n1, "d", "h1", "");
  CHECK(only<give_up>(b.out).reason == "no source of weights is left");
}

TEST_CASE("whatever fails, each newcomer gets weights of its digest or an answer") {
  for (std::uint32_t seed = 1; seed <= 40; ++seed) {
    INFO("seed " << seed);
    std::mt19937 random(seed);
    auto pick = [&](std::uint32_t n) { return static_cast<std::uint32_t>(random() % n); };
    auto digest_of = [](std::uint32_t i) { return i % 3 == 0 ? std::string("e") : std::string("d"); };
    bench b;
    std::map<instance_id, load_from> open;
    std::set<instance_id> asked, answered, withdrawn;
    std::uint32_t asked_last = 0;
    auto look = [&] {
      for (auto& x : b.out) {
        if (auto* load = std::get_if<load_from>(&x)) {
          CHECK(open.count(load->instance) == 0); // the attempt before was ended first
          CHECK(load->from.digest == digest_of(load->instance.value));
          open[load->instance] = *load;
        } else if (auto* stop = std::get_if<stop_load>(&x)) {
          CHECK(open.at(stop->instance).attempt == stop->attempt);
          open.erase(stop->instance);
        } else if (auto* gone = std::get_if<give_up>(&x)) {
          CHECK(answered.insert(gone->instance).second);
        } else if (auto* good = std::get_if<ready>(&x)) {
          CHECK(good->digest == digest_of(good->instance.value));
          CHECK(answered.insert(good->instance).second);
        }
      }
    };
    for (int step = 0; step < 600; ++step) {
      b.now += std::chrono::milliseconds{pick(800)};
      auto which = pick(9);
      auto node = node_id{1 + pick(4)};
      auto host = "h" + std::to_string(node.value % 2);
      if (which == 0) {
        auto i = ++asked_last;
        asked.insert({i});
        b.on(needed{{i}, node, host, digest_of(i), "/" + digest_of(i), {}});
      } else if (which == 1) {
        b.on(held{node, host, pick(2) ? "d" : "e", {"shm"}, 1});
      } else if (which == 2) {
        b.on(released{node, pick(2) ? "d" : "e"});
      } else if (which == 3 && pick(8) == 0) {
        for (auto& l : b.c.loads())
          if (l.node == node) open.erase(l.instance), withdrawn.insert(l.instance);
        b.on(node_gone{node});
      } else if (which < 7 && !open.empty()) {
        auto it = std::next(open.begin(), pick(static_cast<std::uint32_t>(open.size())));
        auto load = it->second;
        if (which == 4) {
          b.on(progress{load.instance, load.attempt, pick(100), 100});
        } else {
          open.erase(it);
          auto wrong = pick(10) == 0;
          if (which == 5)
            b.on(loaded{load.instance, load.attempt, wrong ? "x" : load.from.digest, {"shm"}, 1});
          else
            b.on(failed{load.instance, load.attempt, "random"});
        }
      } else {
        b.on(tick{});
      }
      look();
    }
    for (int i = 0; i < 30; ++i) {
      b.on(tick{}, 61s);
      look();
    }
    CHECK(b.c.loads().empty());
    CHECK(open.empty());
    CHECK(answered.size() + withdrawn.size() == asked.size());
    CHECK(answered.size() > 10);
  }
}

} // namespace hflex::weights_test
