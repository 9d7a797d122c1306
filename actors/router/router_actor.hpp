// The shell of the router: tokenises what clients send (a prompt, or messages by the model's chat template), asks the
// core, detokenises what goes back. No policy here.
#pragma once
#include "actors/router/router.hpp"
#include "actors/wire/interfaces.hpp"
#include "gpu/model/chat_template.hpp"
#include "gpu/model/tokenizer.hpp"
#include <memory>

namespace hflex::router {

struct shell_settings {
  options core;
  std::shared_ptr<const gpu::tokenizer> tokenizer;
  result<gpu::chat_template> chat{fail(errc::reject, "no chat template was given")}; ///< or why there is none
  wire::scheduler_actor scheduler;
  duration start_timeout{
      std::chrono::seconds{2}}; ///< an instance that does not confirm a start in this time counts as not having it
  duration restart_delay{
      std::chrono::milliseconds{20}};      ///< after a start that bounced; the news of the instance's end is on its way
  std::size_t max_prompt_bytes{1U << 20U}; ///< of the prompt, or of all messages together
  std::uint32_t max_messages{4096};
};

/// For system.spawn(). Introduces itself to the scheduler.
wire::router_actor::behavior_type router_shell(wire::router_actor::pointer self, shell_settings settings);

} // namespace hflex::router
