#include "actors/router/admission.hpp"
#include "actors/common/nearest.hpp"
#include <algorithm>
#include <cmath>

namespace hflex::router {

namespace {

constexpr float max_temperature = 10.0F;

tl::unexpected<error> unknown_class(const std::string& wanted, const std::vector<slo_class>& classes) {
  constexpr std::size_t longest_shown = 64; // a client's word goes into a message: not without a bound
  auto shown = wanted.substr(0, longest_shown);
  std::string known;
  std::vector<std::string_view> names;
  for (auto& c : classes) {
    known += (known.empty() ? "" : ", ") + c.name;
    names.push_back(c.name);
  }
  const auto hint = did_you_mean(shown, names);
  return fail(errc::reject, "unknown SLO class \"{}\"; {}{}known: {}", shown, hint, hint.empty() ? "" : " ", known);
}

result<std::uint32_t> output_limit(const submit& s, const options& opts) {
  auto prompt = s.prompt.size();
  if (prompt == 0) return fail(errc::reject, "the prompt is empty; at least one token is needed");
  if (prompt + 1 > opts.max_context)
    return fail(errc::reject,
        "the prompt has {} tokens; the context of {} allows at most {}, so that one output token fits", prompt,
        opts.max_context, opts.max_context - 1);
  auto room = opts.max_context - static_cast<std::uint32_t>(prompt);
  if (!s.max_output_tokens) return std::min(opts.default_max_output_tokens, room);
  if (*s.max_output_tokens == 0 || *s.max_output_tokens > room)
    return fail(errc::reject, "max_tokens is {}; with a prompt of {} tokens the context of {} allows 1 to {}",
        *s.max_output_tokens, prompt, opts.max_context, room);
  return *s.max_output_tokens;
}

result<void> check_sampling(const sampling_params& p) {
  // Written so that NaN fails too.
  if (!(p.temperature >= 0.0F && p.temperature <= max_temperature))
    return fail(errc::reject, "temperature is {}; allowed: 0 (greedy) to {}", p.temperature, max_temperature);
  if (!(p.top_p > 0.0F && p.top_p <= 1.0F))
    return fail(errc::reject, "top_p is {}; allowed: above 0, up to 1", p.top_p);
  return {};
}

result<void> check_target(const char* name, std::optional<duration> target, duration longest) {
  if (!target || (*target > duration{0} && *target <= longest)) return {};
  return fail(errc::reject, "{} is {} ms; allowed: above 0, up to {} ms", name, to_ms(*target), to_ms(longest));
}

} // namespace

result<terms> check(const submit& s, const options& opts) {
  auto& wanted = s.slo_class.empty() ? opts.default_class : s.slo_class;
  auto found =
      std::find_if(opts.classes.begin(), opts.classes.end(), [&](const slo_class& c) { return c.name == wanted; });
  if (found == opts.classes.end()) return unknown_class(wanted, opts.classes);
  auto limit = output_limit(s, opts);
  if (!limit) return pass(limit.error());
  if (auto ok = check_sampling(s.sampling); !ok) return pass(ok.error());
  if (auto ok = check_target("ttft", s.ttft, opts.request_timeout); !ok) return pass(ok.error());
  if (auto ok = check_target("tpot", s.tpot, opts.request_timeout); !ok) return pass(ok.error());
  terms t{found->name, found->targets, *limit};
  if (s.ttft) t.targets.ttft = *s.ttft;
  if (s.tpot) t.targets.tpot = *s.tpot;
  return t;
}

} // namespace hflex::router
