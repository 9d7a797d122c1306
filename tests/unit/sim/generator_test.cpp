// Random numbers, lengths and synthetic requests: by seed, and with the moments that they promise.
#include "tests/unit/sim/says.hpp"
#include "tools/sim/generator.hpp"
#include "tools/sim/lengths.hpp"
#include "tools/sim/random.hpp"
#include "tools/sim/rate_curve.hpp"
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <set>

namespace hflex::generator_test {

using namespace hflex::sim;

namespace {

trace must_generate(const std::string& description, std::uint64_t seed = 1) {
  auto t = generate(description, {seed, {}, 10'000'000});
  if (!t) FAIL(t.error().message);
  return *t;
}

std::string refusal(const std::string& description) {
  const auto t = generate(description, {});
  REQUIRE_FALSE(t.has_value());
  CHECK(t.error().code == errc::reject);
  return t.error().message;
}

length_distribution must_parse(const std::string& text) {
  auto d = length_distribution::parse(text);
  if (!d) FAIL(d.error().message);
  return *d;
}

struct moments {
  double mean{};
  double deviation{};
};

template <class Draw>
moments of(int n, Draw draw) {
  double sum = 0, squares = 0;
  for (int i = 0; i < n; ++i) {
    const double x = draw();
    sum += x;
    squares += x * x;
  }
  const double mean = sum / n;
  return {mean, std::sqrt(std::max(0.0, squares / n - mean * mean))};
}

/// Mean and coefficient of variation of the gaps between arrivals.
moments gaps(const trace& t) {
  std::size_t i = 0;
  duration before{};
  return of(static_cast<int>(t.rows.size()), [&] {
    const double gap = to_s(t.rows[i].arrival - before);
    before = t.rows[i++].arrival;
    return gap;
  });
}

const std::string lengths_part = ",prompt=100,output=10";

struct scratch_file {
  std::string path;
  scratch_file(const std::string& name, const std::string& text) : path(std::string{HFLEX_BINARY_DIR} + "/" + name) {
    std::ofstream(path) << text;
  }
  ~scratch_file() { std::filesystem::remove(path); }
  scratch_file(const scratch_file&) = delete;
  scratch_file& operator=(const scratch_file&) = delete;
};

} // namespace

TEST_CASE("random numbers are the same from a seed, everywhere") {
  random_source a(42), b(42), other_stream(42, 1), other_seed(43);
  const std::uint64_t first = a.bits();
  CHECK(first == b.bits());
  CHECK(first != other_stream.bits());
  CHECK(first != other_seed.bits());
  // Pinned: results that are compared over years must not change with a compiler.
  random_source pinned(1);
  CHECK(pinned.bits() == 0xb18a02f46d8d86c3ULL);
  CHECK(random_source(7).uniform() == Approx(0.609394524568175).epsilon(1e-12));
}

TEST_CASE("uniform, exponential, normal and gamma numbers have their moments") {
  random_source r(5);
  constexpr int n = 200'000;
  const moments u = of(n, [&] { return r.uniform(); });
  CHECK(u.mean == Approx(0.5).margin(0.005));
  CHECK(u.deviation == Approx(std::sqrt(1.0 / 12)).margin(0.005));
  const moments e = of(n, [&] { return r.exponential(); });
  CHECK(e.mean == Approx(1).margin(0.02));
  CHECK(e.deviation == Approx(1).margin(0.03));
  const moments z = of(n, [&] { return r.normal(); });
  CHECK(z.mean == Approx(0).margin(0.02));
  CHECK(z.deviation == Approx(1).margin(0.02));
  for (double shape : {0.1, 0.5, 1.0, 4.0, 30.0}) {
    const moments g = of(n, [&] { return r.gamma(shape); });
    CHECK(g.mean == Approx(shape).epsilon(0.03));
    CHECK(g.deviation == Approx(std::sqrt(shape)).epsilon(0.03));
  }
}

TEST_CASE("normal quantiles are those of the tables") {
  CHECK(normal_quantile(0.5) == Approx(0).margin(1e-12));
  CHECK(normal_quantile(0.975) == Approx(1.959963984540054).epsilon(1e-12));
  CHECK(normal_quantile(0.01) == Approx(-2.3263478740408408).epsilon(1e-12));
}

TEST_CASE("lengths keep the quantiles that were given") {
  const length_distribution d = must_parse("p50:512/p99:6000/p90:2048");
  CHECK(d.quantile_at(0.5) == 512);
  CHECK(d.quantile_at(0.9) == 2048);
  CHECK(d.quantile_at(0.99) == 6000);
  CHECK(d.quantile_at(0.1) < 512);
  CHECK(d.quantile_at(0.1) > 50); // goes on as log-normal below the lowest one
  CHECK(d.quantile_at(0.999) > 6000);
  random_source r(9);
  std::vector<std::uint32_t> drawn;
  for (int i = 0; i < 20'001; ++i) drawn.push_back(d.sample(r));
  std::sort(drawn.begin(), drawn.end());
  CHECK(drawn[10'000] == Approx(512).epsilon(0.03));
  CHECK(drawn[18'000] == Approx(2048).epsilon(0.05));
}

TEST_CASE("lengths may be constant, log-normal and bounded") {
  random_source r(9);
  CHECK(must_parse("512").sample(r) == 512);
  CHECK(must_parse("median:300/sigma:0.5").quantile_at(0.5) == 300);
  const length_distribution d = must_parse("mean:800/cv:1.5/max:1000000");
  const moments m = of(200'000, [&] { return static_cast<double>(d.sample(r)); });
  CHECK(m.mean == Approx(800).epsilon(0.03));
  CHECK(m.deviation == Approx(1200).epsilon(0.1));
  const length_distribution bounded = must_parse("p50:100/p90:1000/p0:50/p100:400");
  CHECK(bounded.quantile_at(0.001) == 50);
  CHECK(bounded.quantile_at(0.999) == 400);
  CHECK(bounded.quantile_at(0.5) == 100);
}

TEST_CASE("lengths that make no sense are refused") {
  const auto why = [](const std::string& text) {
    const auto d = length_distribution::parse(text);
    REQUIRE_FALSE(d.has_value());
    return d.error().message;
  };
  CHECK(says(why(""), "quantiles"));
  CHECK(says(why("0"), "from 1 to 16777216"));
  CHECK(says(why("nan"), "expected lengths such as"));
  CHECK(says(why("p50"), "expected lengths such as"));
  CHECK(says(why("p50:x"), "expected lengths such as"));
  CHECK(says(why("p101:5"), "expected p0 to p100"));
  CHECK(says(why("p50:512/p90:100"), "longer lengths at higher"));
  CHECK(says(why("p50:512/p50:600"), "each quantile once"));
  CHECK(says(why("mediam:512/sigma:1"), "did you mean 'median'?"));
  CHECK(says(why("mean:512"), "mean and cv"));
  CHECK(says(why("mean:512/sigma:1"), "mean and cv"));
  CHECK(says(why("mean:512/cv:1/p50:3"), "either"));
  CHECK(says(why("p50:512/min:9/max:3"), "min at most max"));
  CHECK(says(why("p50:1e300"), "from 1 to 16777216"));
}

TEST_CASE("equal seeds make equal requests, and other seeds others") {
  const std::string text = "poisson,rate=20,requests=200,prompt=p50:512/p90:2048,output=p50:128/p90:400";
  const trace a = must_generate(text, 3), b = must_generate(text, 3), c = must_generate(text, 4);
  REQUIRE(a.rows.size() == 200);
  bool differs = false;
  for (std::size_t i = 0; i < a.rows.size(); ++i) {
    CHECK(a.rows[i].arrival == b.rows[i].arrival);
    CHECK(a.rows[i].prompt_tokens == b.rows[i].prompt_tokens);
    CHECK(a.rows[i].output_tokens == b.rows[i].output_tokens);
    differs = differs || a.rows[i].arrival != c.rows[i].arrival;
  }
  CHECK(differs);
  const trace own = must_generate(text + ",seed=3", 99);
  CHECK(own.rows[199].arrival == a.rows[199].arrival);
}

TEST_CASE("poisson and gamma arrivals have their rate and burstiness") {
  const moments poisson = gaps(must_generate("poisson,rate=50,requests=50000" + lengths_part));
  CHECK(poisson.mean == Approx(0.02).epsilon(0.02));
  CHECK(poisson.deviation / poisson.mean == Approx(1).epsilon(0.02));
  const moments bursts = gaps(must_generate("gamma,cv=3,rate=50,requests=100000" + lengths_part));
  CHECK(bursts.mean == Approx(0.02).epsilon(0.04));
  CHECK(bursts.deviation / bursts.mean == Approx(3).epsilon(0.05));
  const moments even = gaps(must_generate("gamma,cv=0,rate=50,requests=100" + lengths_part));
  CHECK(even.mean == Approx(0.02));
  CHECK(even.deviation == Approx(0).margin(1e-6));
}

TEST_CASE("a duration ends the requests, and every row is in order") {
  const trace t = must_generate("poisson,rate=100,duration=30" + lengths_part);
  CHECK(t.rows.size() == Approx(3000).epsilon(0.1));
  CHECK(t.rows.back().arrival < std::chrono::seconds{30});
  CHECK(std::is_sorted(
      t.rows.begin(), t.rows.end(), [](const trace_row& a, const trace_row& b) { return a.arrival < b.arrival; }));
}

TEST_CASE("a sine has its busy and its quiet half") {
  const trace t = must_generate("diurnal,rate=50,period=100,amplitude=0.8,duration=1000" + lengths_part);
  CHECK(t.rows.size() == Approx(50'000).epsilon(0.02));
  std::size_t busy = 0;
  for (const trace_row& r : t.rows) busy += std::fmod(to_s(r.arrival), 100.0) < 50 ? 1U : 0U;
  // The mean of 1 + 0.8 sin over its rising half is 1 + 1.6 / pi.
  CHECK(
      static_cast<double>(busy) / static_cast<double>(t.rows.size()) == Approx(0.5 * (1 + 1.6 / 3.14159)).margin(0.01));
}

TEST_CASE("a rate curve from a file is followed, scaled, sped up and repeated") {
  const scratch_file file("rates_test.csv", "t_s,quiet,busy\n100,0,0\n200,10,1000\n300,0,0\n");
  const trace t = must_generate("diurnal,rates=" + file.path + ":quiet,duration=400" + lengths_part);
  CHECK(t.rows.size() == Approx(2000).epsilon(0.08)); // a triangle up to 10 per second, twice
  const auto in = [&](const trace& of, double from, double to) {
    return std::count_if(of.rows.begin(), of.rows.end(),
        [&](const trace_row& r) { return to_s(r.arrival) >= from && to_s(r.arrival) < to; });
  };
  CHECK(in(t, 75, 125) > 3 * in(t, 0, 50));
  CHECK(in(t, 275, 325) > 3 * in(t, 200, 250));
  const trace fast = must_generate("diurnal,rate=20,speed=4,rates=" + file.path + ":busy" + lengths_part);
  CHECK(fast.rows.size() == Approx(20 * 50).epsilon(0.12));
  CHECK(fast.rows.back().arrival < std::chrono::seconds{50});
  CHECK(says(refusal("diurnal,rates=" + file.path + ":bussy" + lengths_part), "did you mean 'busy'?"));
  CHECK(says(refusal("diurnal,rates=" + file.path + lengths_part), "one of quiet, busy"));
}

TEST_CASE("lengths come in pairs from a file, or from its quantiles") {
  const scratch_file pairs("pairs_test.csv", "prompt_tokens,output_tokens\n100,1\n200,2\n300,0\n");
  std::set<std::pair<std::uint32_t, std::uint32_t>> seen;
  for (const trace_row& r : must_generate("poisson,rate=1,requests=100,lengths=" + pairs.path).rows)
    seen.emplace(r.prompt_tokens, r.output_tokens);
  CHECK(seen == std::set<std::pair<std::uint32_t, std::uint32_t>>{{100, 1}, {200, 2}, {300, 1}});
  const scratch_file table("quantiles_test.csv", "service,field,percentile,tokens\ncode,prompt,50,2000\n"
                                                 "code,prompt,90,4000\ncode,output,50,20\ncode,output,90,60\n");
  std::vector<std::uint32_t> prompts;
  for (const trace_row& r : must_generate("poisson,rate=1,requests=4001,lengths=" + table.path + ":code").rows)
    prompts.push_back(r.prompt_tokens);
  std::sort(prompts.begin(), prompts.end());
  CHECK(prompts[2000] == Approx(2000).epsilon(0.03));
  CHECK(says(refusal("poisson,rate=1,requests=1,lengths=" + table.path + ":chat"), "one of code"));
}

TEST_CASE("a share of the requests begins with a shared prefix") {
  const trace t = must_generate("poisson,rate=1,requests=10000,prompt=2000,output=5,share=0.3,prefix=1536,prefixes=4");
  CHECK(t.prefix_block_tokens == 512);
  std::set<std::vector<std::uint64_t>> prefixes;
  std::size_t sharing = 0;
  for (const trace_row& r : t.rows) {
    if (r.prefix_blocks.empty()) continue;
    ++sharing;
    CHECK(r.prefix_blocks.size() == 3);
    prefixes.insert(r.prefix_blocks);
  }
  CHECK(sharing == Approx(3000).epsilon(0.06));
  CHECK(prefixes.size() == 4);
  const trace fine = must_generate("poisson,rate=1,requests=10,prompt=40,output=5,share=1,prefix=1552");
  CHECK(fine.prefix_block_tokens == 16);
  CHECK(fine.rows[0].prefix_blocks.size() == 3); // what a prompt of 40 tokens can hold of it
}

TEST_CASE("a wrong description is told which key, and the nearest right one") {
  CHECK(says(refusal("poison,rate=8"), "did you mean 'poisson'?"));
  CHECK(says(refusal("poisson,rat=8"), "did you mean 'rate'?"));
  CHECK(says(refusal("poisson,rate"), "expected key=value, found 'rate'"));
  CHECK(says(refusal("poisson,rate=1,rate=2"), "rate: expected it once"));
  CHECK(says(refusal("poisson,rate=-1" + lengths_part), "rate: expected a number from"));
  CHECK(says(refusal("poisson,duration=5" + lengths_part), "rate: expected requests per second, found none"));
  CHECK(says(refusal("poisson,rate=5" + lengths_part), "duration: expected seconds (or requests=N), found none"));
  CHECK(says(refusal("poisson,rate=1e6,duration=1e9" + lengths_part), "at most 10000000 requests"));
  CHECK(says(refusal("poisson,rate=1,duration=9,prompt=5"), "output: expected both prompt and output"));
  CHECK(
      says(refusal("poisson,rate=1,duration=9,prompt=p50:x,output=5"), "synthetic: prompt: expected lengths such as"));
  CHECK(says(refusal("poisson,rate=1,duration=9,cv=2" + lengths_part), "gamma arrivals only"));
  CHECK(says(refusal("gamma,rate=1,duration=9,period=2" + lengths_part), "diurnal arrivals only"));
  CHECK(says(refusal("poisson,rate=1,duration=9,share=0.5" + lengths_part), "share and prefix together"));
  CHECK(says(refusal("poisson,rate=1,duration=9,share=0.5,prefix=17" + lengths_part), "a multiple of 16"));
  CHECK(says(refusal("poisson,rate=1e-6,duration=0.001" + lengths_part), "at least one request"));
}

} // namespace hflex::generator_test
