// Any bytes as a request trace, and as the description of a synthetic one: refused, or rows that keep their promises.
#include "actors/common/check.hpp"
#include "tools/sim/generator.hpp"
#include "tools/sim/trace_reader.hpp"
#include <cstddef>
#include <cstdint>

namespace {

constexpr std::size_t most = 100'000;

void check_rows(const hflex::sim::trace& t) {
  HFLEX_CHECK(!t.rows.empty() && t.rows.size() <= most);
  HFLEX_CHECK(t.prefix_block_tokens >= 16 && t.prefix_block_tokens <= 512);
  hflex::duration before{0};
  for (const hflex::sim::trace_row& r : t.rows) {
    HFLEX_CHECK(r.arrival >= before && r.prompt_tokens > 0 && r.output_tokens > 0);
    before = r.arrival;
  }
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text{reinterpret_cast<const char*>(data), size};
  hflex::sim::trace_limits limits;
  limits.max_rows = most;
  limits.max_prefix_blocks = most;
  if (const auto t = hflex::sim::parse_trace(text, "fuzz", {}, limits)) check_rows(*t);
  // Files that a description names are not for a fuzzer to open.
  if (text.find("rates") != text.npos || text.find("lengths") != text.npos) return 0;
  if (const auto t = hflex::sim::generate(text, {1, std::chrono::seconds{1}, 1000})) check_rows(*t);
  return 0;
}
