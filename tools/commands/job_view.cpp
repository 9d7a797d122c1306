#include "tools/commands/job_view.hpp"
#include "actors/common/ids.hpp"
#include "actors/wire/convert.hpp"
#include "tools/cli/units.hpp"
#include <algorithm>

namespace hflex::commands {
namespace {

namespace s = wire::schema;

nlohmann::ordered_json number_or_null(double value) {
  return value < 0 ? nlohmann::ordered_json{} : nlohmann::ordered_json(value);
}
nlohmann::ordered_json instance_or_null(std::uint32_t id) {
  return id == 0 ? nlohmann::ordered_json{} : nlohmann::ordered_json(to_string(instance_id{id}));
}
std::string ms_text(double ms) { return ms < 0 ? "-" : cli::human_duration(from_ms(ms)); }
std::string place(s::JobRecord::Reader job) {
  if (job.getPrefillInstance() == 0) return "-";
  auto prefill = to_string(instance_id{job.getPrefillInstance()});
  if (job.getDecodeInstance() == 0 || job.getDecodeInstance() == job.getPrefillInstance()) return prefill;
  return prefill + " > " + to_string(instance_id{job.getDecodeInstance()});
}

} // namespace

nlohmann::ordered_json job_json(s::JobRecord::Reader job) {
  auto ended = job.getState() == s::JobState::ENDED;
  nlohmann::ordered_json j;
  j["id"] = to_string(request_id{job.getId()});
  j["slo_class"] = wire::read(job.getSloClass());
  if (!ended) j["state"] = job_state(job);
  j["outcome"] =
      ended ? nlohmann::ordered_json(to_string(wire::from_wire(job.getOutcome()))) : nlohmann::ordered_json{};
  j["reason"] = wire::read(job.getReason());
  j["text"] = wire::read(job.getText());
  j["token_ids"] = wire::read(job.getTokenIds());
  j["prompt_tokens"] = job.getPromptTokens();
  j["cached_prompt_tokens"] = job.getCachedPromptTokens();
  j["output_tokens"] = job.getOutputTokens();
  j["ttft_ms"] = number_or_null(job.getTtftMs());
  j["tpot_ms"] = number_or_null(job.getTpotMs());
  j["e2e_ms"] = number_or_null(job.getE2eMs());
  j["ttft_target_ms"] = job.getTtftTargetMs();
  j["tpot_target_ms"] = job.getTpotTargetMs();
  j["attained"] = job.getAttained();
  j["strictly_attained"] = job.getStrictlyAttained();
  j["prefill_instance"] = instance_or_null(job.getPrefillInstance());
  j["decode_instance"] = instance_or_null(job.getDecodeInstance());
  j["migrations"] = job.getMigrations();
  j["retries"] = job.getRetries();
  return j;
}

std::string job_state(s::JobRecord::Reader job) {
  switch (job.getState()) {
  case s::JobState::QUEUED:
    return "queued";
  case s::JobState::RUNNING:
    return "running";
  case s::JobState::ENDED:
    return std::string{to_string(wire::from_wire(job.getOutcome()))};
  }
  return "queued";
}

cli::style state_style(s::JobRecord::Reader job) {
  if (job.getState() != s::JobState::ENDED) return cli::style::cyan;
  switch (job.getOutcome()) {
  case s::Outcome::FINISHED:
    return cli::style::green;
  case s::Outcome::SHED:
  case s::Outcome::CANCELLED:
    return cli::style::yellow;
  case s::Outcome::FAILED:
    return cli::style::red;
  }
  return cli::style::plain;
}

job_table::job_table()
    : table_({{"ID"}, {"CLASS"}, {"STATE"}, {"PROMPT", cli::align::right}, {"OUTPUT", cli::align::right},
          {"TTFT", cli::align::right}, {"TPOT", cli::align::right}, {"E2E", cli::align::right}, {"SLO"}, {"WHERE"},
          {"RETRIES", cli::align::right}, {"REASON", cli::align::left, true}}) {}

void job_table::add(s::JobRecord::Reader job) {
  auto ended = job.getState() == s::JobState::ENDED;
  table_.add({to_string(request_id{job.getId()}), wire::read(job.getSloClass()), {job_state(job), state_style(job)},
      std::to_string(job.getPromptTokens()), std::to_string(job.getOutputTokens()), ms_text(job.getTtftMs()),
      ms_text(job.getTpotMs()), ms_text(job.getE2eMs()),
      !ended              ? "-"
      : job.getAttained() ? "met"
                          : "missed",
      place(job), std::to_string(job.getRetries()), wire::read(job.getReason())});
}

std::string describe_job(s::JobRecord::Reader job, const cli::terminal& on) {
  std::string out;
  auto line = [&](const char* name, const std::string& value) { out += fmt::format("{:<10} {}\n", name, value); };
  line("job", to_string(request_id{job.getId()}));
  line("class", wire::read(job.getSloClass()));
  line("state", cli::paint(job_state(job), state_style(job), on) +
                    (job.getReason().size() > 0 ? " (" + cli::one_line(wire::read(job.getReason())) + ")" : ""));
  line("tokens", fmt::format("{} prompt ({} cached), {} of at most {} output", job.getPromptTokens(),
                     job.getCachedPromptTokens(), job.getOutputTokens(), job.getMaxOutputTokens()));
  line("ttft", fmt::format("{} (target {})", ms_text(job.getTtftMs()), ms_text(job.getTtftTargetMs())));
  line("tpot", fmt::format("{} (target {})", ms_text(job.getTpotMs()), ms_text(job.getTpotTargetMs())));
  line("e2e", ms_text(job.getE2eMs()));
  line("where", place(job));
  line("retries", std::to_string(job.getRetries()));
  out += "\n" + wire::read(job.getText()) + "\n";
  return out;
}

} // namespace hflex::commands
