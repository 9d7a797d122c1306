// What the router remembers of one request and tells its client at the end. Plain values: the shell detokenises
// `token_ids`, `hflex submit -o json` prints the rest.
#pragma once
#include "actors/common/request.hpp"
#include "actors/common/slo.hpp"
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace hflex::router {

/// Where a request is between its acceptance and its end.
enum class job_state : std::uint8_t {
  waiting, ///< the scheduler has it
  running, ///< an instance has it
  ended,   ///< `outcome` says how
};

std::string_view to_string(job_state s);

struct job_record {
  request_id id{};
  client_id client{}; ///< who submitted it; none once that client is gone
  std::string slo_class;
  slo_targets targets{};
  job_state state{job_state::waiting};
  std::optional<hflex::outcome> outcome; ///< set exactly when state is `ended`
  std::string reason;                    ///< why it ended so: "eos", "max_tokens", the shed reason, the failure's cause
  std::vector<token_id> token_ids;       ///< output tokens, in order, each index once
  std::uint32_t prompt_tokens{};
  std::uint32_t cached_prompt_tokens{}; ///< that the prefill instance of the last attempt had in its prefix cache
  std::uint32_t max_output_tokens{};
  request_timing timing{};
  std::optional<time_point> ended_at;
  bool attained{false};          ///< finished within TTFT, TPOT and end-to-end targets
  bool strictly_attained{false}; ///< finished with every token i by token_deadline(i)
  instance_id prefill_instance{};
  instance_id decode_instance{}; ///< where it decoded last
  std::uint32_t retries{};       ///< attempts after the first
  std::uint32_t migrations{};    ///< live moves of its decode phase, over all attempts

  std::uint32_t output_tokens() const { return static_cast<std::uint32_t>(token_ids.size()); }
};

} // namespace hflex::router
