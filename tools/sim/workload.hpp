// What simulated clients ask for: requests with arrival, lengths and SLO class. Made by trace readers and generators,
// consumed by the world. Plain values.
#pragma once
#include "actors/common/slo.hpp"
#include <cstdint>
#include <string>
#include <vector>

namespace hflex::sim {

/// One request as it will happen. How long the answer is, only the simulated instance knows (and the oracle).
struct request {
  duration arrival{}; ///< since the start of the workload
  std::uint32_t prompt_tokens{1};
  std::uint32_t output_tokens{1};
  std::uint32_t slo_class{}; ///< index into workload::classes
  /// Contents of the prompt's first blocks of workload::prefix_block_tokens, by id: equal ids are equal text. May cover
  /// less than the prompt (the rest is unlike any other) or more (what is beyond the prompt is not looked at).
  std::vector<std::uint64_t> prefix_blocks;
};

struct workload {
  std::string name;
  std::vector<slo_class> classes; ///< at least one
  std::vector<request> requests;  ///< by arrival
  std::uint32_t prefix_block_tokens{512};

  duration length() const { return requests.empty() ? duration{0} : requests.back().arrival; }
};

} // namespace hflex::sim
