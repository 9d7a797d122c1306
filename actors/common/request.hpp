// What a request is and how it ends: values shared by every role.
#pragma once
#include "actors/common/ids.hpp"
#include "actors/common/slo.hpp"
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace hflex {

using token_id = std::int32_t;

/// How the next token is picked. The random number for output token k depends on (seed, k) only, never on the batch or
/// on where the request runs: a resumed or moved request goes on with the very tokens it would have had.
struct sampling_params {
  float temperature{0.0F}; ///< 0 = greedy; up to 10
  float top_p{1.0F};       ///< (0, 1]
  std::uint32_t top_k{0};  ///< 0 = off
  std::uint64_t seed{0};
};

/// What an instance does for a request: role of the instance, changed by a role flip.
enum class instance_role : std::uint8_t { prefill, decode, mixed };

/// The one terminal state of every request.
enum class outcome : std::uint8_t { finished, shed, cancelled, failed };

/// Why a sequence ended well.
enum class stop_cause : std::uint8_t { eos, max_tokens, context_full };

std::string_view to_string(instance_role role);
std::string_view to_string(outcome o);
std::string_view to_string(stop_cause c);
std::string_view to_string(late_action a);
/// Nothing for an unknown word.
std::optional<instance_role> parse_instance_role(std::string_view word);

constexpr bool can_prefill(instance_role r) { return r != instance_role::decode; }
constexpr bool can_decode(instance_role r) { return r != instance_role::prefill; }

/// Everything an instance needs to run one attempt of a request. `tokens` is the prompt followed by what earlier
/// attempts already produced, so that a retry neither repeats nor skips an output token.
struct sequence_spec {
  request_key key;
  std::vector<token_id> tokens;      ///< prompt + `produced` output tokens; never empty
  std::uint32_t prompt_tokens{};     ///< how many of `tokens` are the client's prompt
  std::uint32_t max_output_tokens{}; ///< over all attempts; > produced
  sampling_params sampling;
  bool ignore_eos{false};
  time_point arrival; ///< on this host's clock
  slo_targets slo;

  std::uint32_t produced() const { return static_cast<std::uint32_t>(tokens.size()) - prompt_tokens; }
};

} // namespace hflex
