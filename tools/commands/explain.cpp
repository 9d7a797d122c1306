// `hflex explain`: what happened to a request and why, as scheduler and router tell it; and why the fleet changed.
#include "actors/scheduler/decision_log.hpp"
#include "actors/wire/convert.hpp"
#include "tools/cli/exit_code.hpp"
#include "tools/cli/json_line.hpp"
#include "tools/cli/units.hpp"
#include "tools/commands/commands.hpp"
#include "tools/commands/job_view.hpp"
#include "tools/runtime/client.hpp"
#include <cstdio>
#include <memory>

namespace hflex::commands {
namespace {

namespace s = wire::schema;
using nlohmann::ordered_json;
using wire::msg;

struct explain_flags {
  head_options head;
  std::string request;
  bool scaling{false};
  output format{output::text};
};

std::string instance_name(std::uint32_t id) { return to_string(instance_id{id}); }

ordered_json name_or_null(std::uint32_t id) { return id == 0 ? ordered_json{} : ordered_json(instance_name(id)); }

// ---- JSON ----

ordered_json standing_json(s::Standing::Reader in) {
  ordered_json j;
  j["band"] = wire::read(in.getBand());
  j["position"] = in.getPosition();
  j["of"] = in.getOf();
  j["due_ms"] = in.getDueMs();
  j["latest_start_ms"] = in.getLatestStartKnown() ? ordered_json(in.getLatestStartMs()) : ordered_json{};
  j["waits_for"] = ordered_json::array();
  for (auto o : in.getObstacles())
    j["waits_for"].push_back({{"instance", instance_name(o.getInstance())}, {"why", wire::read(o.getWhy())}});
  j["more_instances"] = in.getMore();
  return j;
}

ordered_json story_json(s::Story::Reader in) {
  ordered_json j;
  j["id"] = to_string(request_id{in.getId()});
  j["age_ms"] = in.getAgeMs();
  j["ttft_target_ms"] = in.getSlo().getTtftMs();
  j["tpot_target_ms"] = in.getSlo().getTpotMs();
  j["happenings"] = ordered_json::array();
  for (auto h : in.getHappenings()) {
    ordered_json one;
    one["after_ms"] = h.getAfterMs();
    one["attempt"] = h.getAttempt();
    one["what"] = wire::read(h.getWhat());
    one["why"] = wire::read(h.getWhy());
    one["prefill_instance"] = name_or_null(h.getPrefillInstance());
    one["decode_instance"] = name_or_null(h.getDecodeInstance());
    j["happenings"].push_back(std::move(one));
  }
  j["omitted"] = in.getOmitted();
  j["waiting"] = in.hasStanding() ? standing_json(in.getStanding()) : ordered_json{};
  return j;
}

/// What became of it, without its text.
ordered_json outcome_json(s::JobRecord::Reader job) {
  auto j = job_json(job);
  for (const char* key : {"id", "text", "token_ids"}) j.erase(key);
  return j;
}

// ---- text ----

std::string shown_ms(double ms) { return cli::human_duration(from_ms(ms)); }

std::string against(const char* name, double ms, double target) {
  if (ms < 0) return {};
  return fmt::format("{} {} of {} ({})", name, shown_ms(ms), shown_ms(target), ms <= target ? "met" : "missed");
}

std::string headline(s::JobRecord::Reader job) {
  auto out = fmt::format(
      "{} [{}] {}", to_string(request_id{job.getId()}), cli::one_line(wire::read(job.getSloClass())), job_state(job));
  if (job.getReason().size() > 0) out += " (" + cli::one_line(wire::read(job.getReason())) + ")";
  for (const auto& part : {against("TTFT", job.getTtftMs(), job.getTtftTargetMs()),
           against("TPOT", job.getTpotMs(), job.getTpotTargetMs())})
    if (!part.empty()) out += ", " + part;
  return out + "\n";
}

void print_story(s::Story::Reader in) {
  cli::table table(
      {{"AFTER", cli::align::right}, {"TRY", cli::align::right}, {"WHAT"}, {"WHERE"}, {"WHY", cli::align::left}});
  for (auto h : in.getHappenings())
    table.add({shown_ms(h.getAfterMs()), std::to_string(h.getAttempt()), wire::read(h.getWhat()),
        scheduler::place_in_words({h.getPrefillInstance()}, {h.getDecodeInstance()}),
        cli::one_line(wire::read(h.getWhy()))});
  std::fputs(table.render(cli::detect_terminal(1)).c_str(), stdout);
  if (in.getOmitted() > 0) std::printf("(%u happenings in the middle are left out)\n", in.getOmitted());
  if (!in.hasStanding()) return;
  auto stands = in.getStanding();
  std::printf("\nwaits for %s: %u of %u (%s)\n", shown_ms(in.getAgeMs()).c_str(), stands.getPosition(), stands.getOf(),
      cli::one_line(wire::read(stands.getBand())).c_str());
  std::printf("next token due %s", stands.getDueMs() >= 0 ? ("in " + shown_ms(stands.getDueMs())).c_str()
                                                          : (shown_ms(-stands.getDueMs()) + " ago").c_str());
  if (stands.getLatestStartKnown())
    std::printf(", latest start %s", stands.getLatestStartMs() >= 0
                                         ? ("in " + shown_ms(stands.getLatestStartMs())).c_str()
                                         : (shown_ms(-stands.getLatestStartMs()) + " ago").c_str());
  std::printf("\n");
  for (auto o : stands.getObstacles())
    std::printf("  %s %s\n", instance_name(o.getInstance()).c_str(), cli::one_line(wire::read(o.getWhy())).c_str());
  if (stands.getMore() > 0) std::printf("  and %u more instances\n", stands.getMore());
}

// ---- the commands ----

int explain_request(const explain_flags& f) {
  auto id = parse_id(f.request, 'r', "request");
  if (!id) return report(id.error());
  auto client = reach_head(f.head);
  if (!client) return report(client.error());
  const auto wait = from_s(f.head.timeout_s);
  auto why = (*client)->ask<msg<s::Explanation>>((*client)->scheduler(), wait,
      msg<s::ExplainRequest>::make([&](s::ExplainRequest::Builder out) { out.setId(*id); }));
  if (!why) return report(why.error());
  auto jobs = (*client)->ask<msg<s::JobList>>(
      (*client)->router(), wait, msg<s::JobQuery>::make([&](s::JobQuery::Builder out) { out.setId(*id); }));
  if (!jobs) return report(jobs.error());
  auto explanation = why->read();
  auto list = jobs->read();
  if (explanation->isRefused() && list->getJobs().size() == 0)
    return report({errc::retry, wire::read(explanation->getRefused())});
  if (f.format == output::json) {
    auto j = explanation->isStory() ? story_json(explanation->getStory())
                                    : ordered_json{{"id", to_string(request_id{*id})}, {"happenings", nullptr}};
    j["job"] = list->getJobs().size() > 0 ? outcome_json(list->getJobs()[0]) : ordered_json{};
    std::fputs(cli::json_line(j).c_str(), stdout);
    return cli::exit_done;
  }
  if (list->getJobs().size() > 0) std::fputs(headline(list->getJobs()[0]).c_str(), stdout);
  if (explanation->isStory())
    print_story(explanation->getStory());
  else
    std::fprintf(stderr, "hflex: %s\n", explanation->getRefused().cStr());
  return cli::exit_done;
}

int run(const explain_flags& f) {
  if (f.scaling) return explain_scaling(f.head, f.format == output::json);
  if (f.request.empty()) return usage_error("nothing to explain: give a request (r17) or --scaling");
  return explain_request(f);
}

} // namespace

runner add_explain(CLI::App& app) {
  auto f = std::make_shared<explain_flags>();
  auto* request = app.add_option("REQUEST", f->request, "A request, live or ended a while ago (r1, r2, ...)");
  app.add_flag("--scaling", f->scaling, "The latest decisions about the fleet, with their numbers")->excludes(request);
  add_output_option(app, f->format);
  add_head_options(app, f->head);
  add_examples(app, "  hflex explain r17\n  hflex explain r17 -o json\n  hflex explain --scaling");
  return [f] { return run(*f); };
}

} // namespace hflex::commands
