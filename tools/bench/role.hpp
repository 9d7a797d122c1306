// What changes of role cost a cluster that serves under full load: one flip after the other, prefill <-> decode <->
// mixed, while clients keep every instance busy. Called by `hflex bench role`. The cluster is a real one, its own or a
// running one; the bench is a client of it and no part.
#pragma once
#include "actors/common/ids.hpp"
#include "actors/common/request.hpp"
#include "actors/common/result.hpp"
#include "actors/common/time.hpp"
#include "tools/cli/endpoint.hpp"
#include <functional>
#include <string>
#include <vector>

namespace hflex::bench {

struct role_options {
  cli::endpoint head;
  std::string model;          ///< whose tokenizer prompts are made for
  std::uint32_t instances{3}; ///< waits for so many
  std::uint32_t flips{100};
  std::uint32_t concurrency{0}; ///< requests under way at a time; 0 = 16 for each instance
  std::uint32_t prompt_tokens{64};
  std::uint32_t output_tokens{64};
  std::uint64_t seed{1};                             ///< of the prompts
  duration answer_timeout{std::chrono::seconds{10}}; ///< of single answers
  duration longest_flip{std::chrono::seconds{120}};  ///< drain included; then the bench ends with errc::retry
  std::function<bool()> stopped;                     ///< asked often; true ends the run with errc::fatal
};

/// Milliseconds, as the scaler measured them: from its order to the word that the instance is admitted in its new role.
struct role_flip {
  instance_id instance;
  instance_role from{};
  instance_role to{};
  double all_ms{};
  double drain_ms{}; ///< of it, until the last resident had ended or moved away
  double beyond_ms() const { return all_ms - drain_ms; }
};

struct role_report {
  std::vector<role_flip> flips;
  std::uint32_t concurrency{};
  std::uint64_t requests{}; ///< that were accepted and ended
  std::uint64_t finished{};
  std::uint64_t failed{}; ///< all others, those refused among them
  std::uint64_t tokens{};
  std::uint64_t migrations{};  ///< residents that moved on with their KV
  std::uint64_t handed_back{}; ///< went elsewhere before they had begun
  std::uint64_t loads{};       ///< instances that loaded weights meanwhile
  double wall_s{};
  std::vector<std::string> reasons; ///< of failures, each once
};

/// Blocks. `on_flip` sees each flip as it is done. errc::reject: the tokenizer makes no prompts; errc::retry: instances
/// or a flip took too long; errc::reroute: the head is gone.
result<role_report> measure_roles(const role_options& options, const std::function<void(const role_flip&)>& on_flip);

} // namespace hflex::bench
