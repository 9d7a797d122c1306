// Prompts of `hflex submit --file F.jsonl` (or "-": stdin): one JSON object per line. Every line is checked before
// anything is submitted, and every fault is told with its line.
#pragma once
#include <cstdint>
#include <istream>
#include <optional>
#include <string>
#include <tl/expected.hpp>
#include <vector>

namespace hflex::cli {

/// One turn of a conversation.
struct chat_turn {
  std::string role; ///< "system", "user" or "assistant"
  std::string content;
  friend bool operator==(const chat_turn&, const chat_turn&) = default;
};

/// One line. What is left out is decided by the command's flags or by the SLO class.
struct prompt_line {
  std::string prompt;                      ///< UTF-8; empty only where there are messages
  std::vector<chat_turn> messages;         ///< instead of a prompt
  std::optional<std::string> slo;          ///< name of an SLO class
  std::optional<std::uint32_t> max_tokens; ///< [1, 10^6]
  std::optional<double> temperature;       ///< [0, 10]
  std::optional<double> top_p;             ///< (0, 1]
  std::optional<std::uint64_t> seed;
  std::optional<double> ttft_ms; ///< (0, 86400000]
  std::optional<double> tpot_ms; ///< (0, 86400000]
  std::optional<bool> ignore_eos;
};

struct prompt_limits {
  std::size_t max_line_bytes{std::size_t{4} << 20U};
  std::size_t max_prompts{100'000};
  std::size_t max_faults{20}; ///< reading ends after so many
};

/// One message per fault: "F.jsonl:3: temperature: expected a number from 0 to 10, found 11".
using prompt_result = tl::expected<std::vector<prompt_line>, std::vector<std::string>>;

/// `name` is what messages call the stream. Empty lines are skipped; a file without a prompt is a fault.
prompt_result read_prompts(std::istream& in, const std::string& name, const prompt_limits& limits = {});
/// Opens a file, or stdin for "-" (called "stdin" in messages). Blocks.
prompt_result read_prompt_file(const std::string& path, const prompt_limits& limits = {});

} // namespace hflex::cli
