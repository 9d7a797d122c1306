#include "actors/common/metrics.hpp"
#include "tests/support/catch.hpp"

namespace hflex::metrics_test {

namespace {

constexpr time_point start{};
time_point at_ms(double ms) { return start + from_ms(ms); }

// Arrives at `arrival_ms`; its first token comes after `ttft_ms`, then one every `gap_ms`.
request_record finished(std::string name, double arrival_ms, double ttft_ms, double gap_ms, std::uint32_t n) {
  request_record r{std::move(name), {from_ms(100), from_ms(20), {}, 1.0, {}}, outcome::finished, {}, {}};
  for (std::uint32_t i = 0; i < n; ++i) r.token_times.push_back(at_ms(arrival_ms + ttft_ms + i * gap_ms));
  r.timing = {at_ms(arrival_ms), r.token_times.front(), r.token_times.back(), n};
  return r;
}

request_record ended(std::string name, std::optional<outcome> how) {
  return {std::move(name), {from_ms(100), from_ms(20), {}, 3.0, {}}, how, {start, {}, {}, 0}, {}};
}

} // namespace

TEST_CASE("shed, failed, cancelled and unfinished requests stay in the denominator of attainment") {
  std::vector<request_record> records{finished("chat", 0, 50, 10, 5), ended("chat", outcome::shed),
      ended("chat", outcome::failed), ended("chat", std::nullopt), ended("chat", outcome::cancelled)};
  auto report = summarize(records, std::chrono::seconds{2});
  CHECK(report.overall.requests == 5);
  CHECK(report.overall.finished == 1);
  CHECK(report.overall.shed == 1);
  CHECK(report.overall.failed == 1);
  CHECK(report.overall.cancelled == 1);
  CHECK(report.overall.unfinished == 1);
  CHECK(report.overall.attainment == Approx(0.2));
  CHECK(report.overall.weighted_attainment == Approx(1.0 / 13.0));
  CHECK(report.overall.goodput_per_s == Approx(0.5));
  REQUIRE(report.overall.strict_attainment);
  CHECK(*report.overall.strict_attainment == Approx(0.2));
}

TEST_CASE("a request that stalls and catches up attains its mean but not strictly") {
  auto r = finished("chat", 0, 90, 10, 11);
  r.token_times[1] = r.token_times[10] - from_ms(5); // all but the first come in a burst at the end
  for (std::size_t i = 2; i < 10; ++i) r.token_times[i] = r.token_times[10] - from_ms(4);
  auto report = summarize(std::vector{r}, std::chrono::seconds{1});
  CHECK(report.overall.attainment == 1.0);
  CHECK(*report.overall.strict_attainment == 0.0);
}

TEST_CASE("strict attainment is unknown when token times were not recorded") {
  auto r = finished("chat", 0, 50, 10, 5);
  r.token_times.clear();
  CHECK_FALSE(summarize(std::vector{r}, std::chrono::seconds{1}).overall.strict_attainment);
}

TEST_CASE("latencies are summarised per class and overall") {
  std::vector<request_record> records;
  for (int i = 0; i < 100; ++i) records.push_back(finished("chat", i * 5.0, 1.0 + i, 10, 3));
  records.push_back(finished("batch", 0, 1000, 50, 2));
  auto report = summarize(records, std::chrono::seconds{1});
  REQUIRE(report.classes.size() == 2);
  CHECK(report.classes[0].slo_class == "batch");
  const auto& chat = report.classes[1];
  CHECK(chat.slo_class == "chat");
  CHECK(chat.ttft.count == 100);
  CHECK(chat.ttft.mean_ms == Approx(50.5));
  CHECK(chat.ttft.p50_ms == Approx(50.5));
  CHECK(chat.ttft.p90_ms == Approx(90.1));
  CHECK(chat.ttft.p99_ms == Approx(99.01));
  CHECK(chat.tpot.p50_ms == Approx(10));
  CHECK(chat.itl.count == 200);
  CHECK(chat.itl.mean_ms == Approx(10));
  CHECK(chat.e2e.p50_ms == Approx(70.5));
  CHECK(chat.output_tokens == 300);
  CHECK(report.classes[0].attainment == 0.0);
  CHECK(report.overall.attainment == Approx(100.0 / 101.0));
}

TEST_CASE("an empty record gives an empty report") {
  auto report = summarize({}, duration{0});
  CHECK(report.overall.requests == 0);
  CHECK(report.overall.attainment == 0.0);
  CHECK(report.overall.goodput_per_s == 0.0);
  CHECK(report.classes.empty());
}

} // namespace hflex::metrics_test
