#include "actors/cluster/linking.hpp"
#include "tests/support/catch.hpp"
#include "tests/unit/actors/effects_of.hpp"

namespace hflex::linking_test {

using namespace hflex::cluster;
using namespace hflex::test;
using namespace std::chrono_literals;

namespace {

constexpr auto prefill = instance_role::prefill, decode = instance_role::decode, mixed = instance_role::mixed;

struct bench {
  linking l{{2s}};
  time_point now{1s};
  std::vector<link_effect> out{};

  template <class Event>
  void on(const Event& e, duration later = {}) {
    now += later;
    out.clear();
    l.on(e, now, out);
  }
  void comes(std::uint32_t id, instance_role role) { on(newcomer{{id}, role}); }
  /// One that is there already, all of whose links are open.
  void settled(std::uint32_t id, instance_role role) {
    comes(id, role);
    answer_all();
    REQUIRE(l.admitted({id}));
  }
  link_round round_of(std::uint32_t from, std::uint32_t to) const {
    for (const auto& i : asked)
      if (i.to == instance_id{from} && i.peer == instance_id{to}) return i.round;
    FAIL("i" << from << " was not asked to open a link to i" << to);
    return 0;
  }
  void remember() {
    asked.clear();
    for (const auto& i : all<introduce>(out))
      if (i.sends) asked.push_back(i);
  }
  void answer(std::uint32_t from, std::uint32_t to, bool open = true, duration later = {}) {
    on(link_answer{{from}, {to}, round_of(from, to), open, "shm", "it is deaf"}, later);
  }
  void answer_all() {
    remember();
    for (const auto& i : std::vector<introduce>{asked}) on(link_answer{i.to, i.peer, i.round, true, "shm", {}});
  }
  std::vector<introduce> asked;
};

std::size_t shown(const std::vector<link_effect>& out, link_state is) {
  std::size_t n = 0;
  for (const auto& s : all<show_link>(out)) n += s.is == is ? 1 : 0;
  return n;
}

} // namespace

TEST_CASE("an instance without counterparts is admitted at once") {
  bench b;
  b.comes(1, prefill);
  CHECK(only<admit>(b.out).instance == instance_id{1});
  CHECK(count<introduce>(b.out) == 0);
  b.comes(2, prefill); // prefill instances have nothing to say to each other
  CHECK(only<admit>(b.out).instance == instance_id{2});
}

TEST_CASE("a newcomer is admitted when the last of its links is open, in both directions") {
  bench b;
  b.settled(1, prefill);
  b.settled(2, mixed);
  b.comes(3, decode);
  b.remember();
  CHECK(b.asked.size() == 3); // 1 -> 3, 2 -> 3 and 3 -> 2: nobody sends KV to one that only prefills
  CHECK(count<introduce>(b.out) == 4);
  CHECK(shown(b.out, link_state::opening) == 3);
  CHECK(count<admit>(b.out) == 0);
  b.answer(1, 3, true, 2ms);
  CHECK(shown(b.out, link_state::open) == 1);
  b.answer(3, 2, true, 2ms);
  CHECK_FALSE(b.l.admitted({3}));
  b.answer(2, 3, true, 2ms);
  CHECK(only<admit>(b.out).instance == instance_id{3});
  CHECK(only<admit>(b.out).waited == 6ms);
}

TEST_CASE("a link that does not open is shown and keeps nobody from serving") {
  bench b;
  b.settled(1, mixed);
  b.comes(2, mixed);
  b.remember();
  CHECK(only<link_wake_at>(b.out).time == b.now + 2s);
  b.answer(2, 1, false);
  CHECK(only<show_link>(b.out).is == link_state::failed);
  CHECK(only<show_link>(b.out).detail == "it is deaf");
  CHECK_FALSE(b.l.admitted({2}));
  b.on(link_tick{}, 2s); // the other end never says a word
  CHECK(only<show_link>(b.out).is == link_state::failed);
  CHECK(only<admit>(b.out).instance == instance_id{2});
  b.answer(1, 2); // at last
  CHECK(only<show_link>(b.out).is == link_state::open);
  CHECK(count<admit>(b.out) == 0);
}

TEST_CASE("a change of role closes the links of the old one and waits for those of the new one") {
  bench b;
  b.settled(1, prefill);
  b.settled(2, decode);
  b.comes(3, prefill);
  b.remember();
  const auto old = b.round_of(3, 2);
  b.answer(3, 2);
  b.comes(3, decode);
  b.remember();
  CHECK(shown(b.out, link_state::closed) == 1);
  CHECK_FALSE(b.l.admitted({3}));
  b.on(link_answer{{3}, {2}, old, true, "shm", {}}); // of the former actor
  CHECK(b.out.empty());
  b.answer(3, 2);
  b.answer(1, 3);
  CHECK_FALSE(b.l.admitted({3}));
  b.answer(2, 3);
  CHECK(b.l.admitted({3}));
}

TEST_CASE("ways that are open stay so when the same process changes its role") {
  bench b;
  b.settled(1, prefill);
  b.settled(2, decode);
  b.settled(3, mixed);
  b.on(newcomer{{3}, prefill, true}); // 3 -> 2 was open; 1 -> 3 and 2 -> 3 are wanted no more
  b.remember();
  CHECK(shown(b.out, link_state::closed) == 2);
  CHECK(shown(b.out, link_state::opening) == 0);
  CHECK(count<introduce>(b.out) == 2); // another actor: both ends must know it
  CHECK(only<admit>(b.out).waited == duration{0});
  b.on(link_answer{{3}, {2}, b.round_of(3, 2), true, "shm", {}});
  CHECK(b.out.empty());
  b.on(newcomer{{3}, decode, true}); // and back: only what is new is waited for
  b.remember();
  CHECK(shown(b.out, link_state::closed) == 0);
  CHECK(shown(b.out, link_state::opening) == 2);
  CHECK_FALSE(b.l.admitted({3}));
  b.answer(1, 3);
  b.answer(2, 3);
  CHECK(b.l.admitted({3}));
  b.answer(3, 2, false); // it was not, after all
  CHECK(only<show_link>(b.out).is == link_state::failed);
}

TEST_CASE("nobody waits for a counterpart that drains or dies") {
  bench b;
  b.settled(1, mixed);
  b.settled(2, mixed);
  b.comes(3, mixed);
  b.remember();
  b.answer(3, 1);
  b.answer(3, 2);
  b.on(link_draining{{1}});
  CHECK_FALSE(b.l.admitted({3}));
  b.on(link_end_gone{{2}});
  CHECK(shown(b.out, link_state::closed) == 4); // those with 1 and those with 3
  CHECK(only<admit>(b.out).instance == instance_id{3});
}

TEST_CASE("a newcomer that goes before it is admitted is not admitted any more") {
  bench b;
  b.settled(1, mixed);
  b.comes(2, mixed);
  b.remember();
  b.on(link_end_gone{{2}});
  CHECK(count<admit>(b.out) == 0);
  b.on(link_answer{{1}, {2}, b.round_of(1, 2), true, "shm", {}});
  CHECK(b.out.empty());
  b.on(link_tick{}, 2s);
  CHECK(count<admit>(b.out) == 0);
}

} // namespace hflex::linking_test
