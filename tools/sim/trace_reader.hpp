// Request traces as their authors publish them -> rows by arrival. The format is told by the content, not by the name:
//   - ours: CSV with at least arrival_s,prompt_tokens,output_tokens; also slo_class, session_id (or session),
//     prefix_block_ids (runs "0;65-73") and arrival_spread_s, which counts instead of arrival_s where it is there
//     (Mooncake's stamps come in batches of 3 s). Other columns are left alone.
//   - Azure's CSV: TIMESTAMP,ContextTokens,GeneratedTokens; stamps with date, up to 9 digits of fraction
//   - Mooncake's JSONL: {"timestamp": ms, "input_length", "output_length", "hash_ids": [..]}
// Any of them may be gzip. Used by workload_builder and the fuzzer.
#pragma once
#include "actors/common/result.hpp"
#include "actors/common/time.hpp"
#include "tools/sim/csv.hpp"
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace hflex::sim {

struct trace_row {
  duration arrival{};            ///< since the trace's start; >= 0
  std::uint32_t prompt_tokens{}; ///< at least 1
  std::uint32_t output_tokens{}; ///< at least 1: an answer without a token counts as one
  std::string slo_class;         ///< empty = not said
  std::string session;           ///< empty = not said
  std::vector<std::uint64_t> prefix_blocks;
  std::uint64_t line{}; ///< of its file; 0 = made up
};

struct trace {
  std::vector<trace_row> rows; ///< by arrival, in the file's order where equal
  /// Tokens that one id of prefix_blocks stands for. No trace says it: the largest of 512, 256, ... 16 for which no
  /// prompt is shorter than its ids but the last.
  std::uint32_t prefix_block_tokens{512};
};

struct trace_limits {
  line_limits lines;
  std::size_t max_rows{10'000'000};
  std::size_t max_prefix_blocks{std::size_t{1} << 26U}; ///< of all rows; one row may have 2^20
};

/// Which rows to keep: those that arrive in [from, from + length).
struct trace_window {
  duration from{};
  std::optional<duration> length;
};

/// Arrivals of the kept rows count from the window's start. errc::reject names file, line, what was expected and what
/// was found. Blocks on the disk.
result<trace> read_trace(const std::string& file, const trace_window& window = {}, const trace_limits& limits = {});
/// The same for a text; `name` stands for the file in messages.
result<trace> parse_trace(
    std::string_view text, const std::string& name, const trace_window& window = {}, const trace_limits& limits = {});

} // namespace hflex::sim
