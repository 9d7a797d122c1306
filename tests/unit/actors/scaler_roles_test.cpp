// Which instances prefill and which decode, where the scaling policy changes roles.
#include "tests/unit/actors/scaler_desk.hpp"

namespace hflex::scaler_roles_test {

using namespace hflex::scaler;
using namespace hflex::scaler::test;

TEST_CASE("a side that lacks instances takes those of the other before any is started") {
  // A prompt-heavy load, then none: what prefill had is decode's when that needs it.
  fleet_desk d(using_policy("hyperflexis"), {{prefill, 4}, {decode, 1}}, 5);
  d.load(10, seconds{10});
  const auto starts = d.starts;
  // Residents that fill three decode instances.
  for (int i = 0; i < 40; ++i) {
    d.now += milliseconds{250};
    d.settle();
    demand_reported e;
    e.demand.span = milliseconds{250};
    e.demand.classes.push_back({"standard", seconds{2}, milliseconds{100}, 1, 10, 100, 1, 1000});
    for (const auto& [id, at] : d.it.state().instances)
      if (at.phase == life::ready)
        e.demand.instances.push_back({id, at.role, false, at.role == decode ? 600U / d.it.state().ready(decode) : 0U, 0,
            0, 0, 10'000, 0, 16, 2048, 256, 1.0, simple});
    d.feed(e);
  }
  CHECK(d.it.state().ready(decode) >= 3);
  CHECK(d.it.state().ready(prefill) >= 1);
  CHECK(d.starts == starts);
}

TEST_CASE("a fleet of fixed size prefills with most of it where prompts are long and answers short") {
  auto o = using_policy("hyperflexis");
  o.min_instances = o.max_instances = 8;
  fleet_desk d(o, {{prefill, 4}, {decode, 4}}, 8);
  d.prompt = 3000;
  d.output = 20;
  d.load(8, seconds{3});
  CHECK(d.it.state().ready(decode) == 4); // not sure yet that decodes need fewer
  d.load(8, seconds{27});
  CHECK(d.it.state().ready(prefill) == 7);
  CHECK(d.it.state().ready(decode) == 1);
  d.prompt = 300; // and the other way round, as this becomes what is usual
  d.output = 600;
  d.load(15, seconds{30});
  CHECK(d.it.state().ready(decode) == 1); // they are still to come: until then, prefill has the use of the others
  d.residents = 600;
  d.load(15, seconds{30});
  CHECK(d.it.state().ready(decode) >= 3);
  CHECK(d.running() == 8);
}

TEST_CASE("a fleet of fixed size reckons with answers that are longer than those that have ended") {
  auto o = using_policy("hyperflexis");
  o.min_instances = o.max_instances = 8;
  std::vector<std::uint32_t> decodes;
  for (const double made : {1.0, 16.0}) {
    fleet_desk d(o, {{prefill, 4}, {decode, 4}}, 8);
    d.residents = 1000;
    d.prompt = 1000;
    d.output = 200;
    d.made = made;
    d.load(10, seconds{60});
    decodes.push_back(d.it.state().ready(decode));
  }
  CHECK(decodes[0] <= 3);
  CHECK(decodes[1] >= 5);
}

TEST_CASE("roles do not follow what a second brings and takes, however fast a start is") {
  auto o = using_policy("hyperflexis");
  o.min_instances = o.max_instances = 8;
  o.lead_time = milliseconds{50};
  fleet_desk d(o, {{prefill, 4}, {decode, 4}}, 8);
  d.prompt = 1000;
  d.output = 400;
  for (int i = 0; i < 30; ++i) {
    d.residents = i % 2 == 0 ? 1200 : 200;
    d.load(10, seconds{1});
  }
  const auto flips =
      std::count_if(d.notes.begin(), d.notes.end(), [](const note& n) { return n.why.starts_with("change role"); });
  CHECK(flips <= 4);
}

TEST_CASE("nothing is stopped and started where a role flip will do, however long that takes") {
  auto o = using_policy("hyperflexis");
  o.min_instances = o.max_instances = 8;
  o.knobs["hyperflexis.memory_s"] = 10;
  fleet_desk d(o, {{prefill, 4}, {decode, 4}}, 16);
  d.prompt = 3000;
  d.output = 20;
  d.drains_last = true; // 3 that decoded are to prefill, once their residents have gone
  d.load(8, seconds{30});
  REQUIRE(d.it.state().running(prefill) == 7);
  // And now most are to decode. The last one that can prefill stays, until one of the others can.
  d.prompt = 300;
  d.output = 2000;
  d.residents = 2000;
  d.load(15, seconds{60});
  CHECK(d.it.state().ready(prefill) == 1);
  CHECK(d.starts == 8);
  CHECK(d.stops == 0);
  d.drains_last = false;
  d.load(15, seconds{60});
  CHECK(d.it.state().ready(decode) >= 6);
  CHECK(d.starts == 8);
  CHECK(d.stops == 0);
}

TEST_CASE("a fleet of fixed size that knows of no load keeps its roles") {
  auto o = using_policy("hyperflexis");
  o.min_instances = o.max_instances = 8;
  fleet_desk d(o, {{prefill, 3}, {decode, 5}}, 8);
  d.load(0, seconds{120});
  CHECK(d.it.state().ready(prefill) == 3);
  CHECK(d.it.state().ready(decode) == 5);
}

} // namespace hflex::scaler_roles_test
