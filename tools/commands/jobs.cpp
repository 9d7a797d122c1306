// `hflex jobs`, `cancel` and `wait`: what the router knows of requests.
#include "actors/wire/convert.hpp"
#include "tools/cli/exit_code.hpp"
#include "tools/cli/json_line.hpp"
#include "tools/commands/commands.hpp"
#include "tools/commands/job_view.hpp"
#include "tools/runtime/client.hpp"
#include <cstdio>
#include <memory>

namespace hflex::commands {
namespace {

namespace s = wire::schema;
using wire::msg;

struct job_flags {
  head_options head;
  std::string id;
  std::uint32_t limit{50};
  output format{output::text};
};

int print_job(s::JobRecord::Reader job, output format) {
  if (format == output::json)
    std::fputs(cli::json_line(job_json(job)).c_str(), stdout);
  else
    std::fputs(describe_job(job, cli::detect_terminal(1)).c_str(), stdout);
  return job.getState() != s::JobState::ENDED || job.getOutcome() == s::Outcome::FINISHED ? cli::exit_done
                                                                                          : cli::exit_failed;
}

int list_jobs(const job_flags& f) {
  request_id id;
  if (!f.id.empty()) {
    auto parsed = parse_id(f.id, 'r', "job");
    if (!parsed) return report(parsed.error());
    id.value = *parsed;
  }
  auto client = reach_head(f.head);
  if (!client) return report(client.error());
  auto query = msg<s::JobQuery>::make([&](s::JobQuery::Builder out) {
    out.setId(id.value);
    out.setLimit(f.limit);
  });
  auto answer = (*client)->ask<msg<s::JobList>>((*client)->router(), from_s(f.head.timeout_s), query);
  if (!answer) return report(answer.error());
  auto list = answer->read();
  if (id && list->getJobs().size() == 0)
    return report({errc::retry, fmt::format("no job {}: never accepted here, or ended long ago", to_string(id))});
  if (id) {
    print_job(list->getJobs()[0], f.format);
    return cli::exit_done;
  }
  if (f.format == output::json) {
    auto all = nlohmann::ordered_json::array();
    for (auto job : list->getJobs()) all.push_back(job_json(job));
    std::fputs(
        cli::json_line({{"in_flight", list->getInFlight()}, {"in_flight_limit", list->getLimit()}, {"jobs", all}})
            .c_str(),
        stdout);
    return cli::exit_done;
  }
  job_table table;
  for (auto job : list->getJobs()) table.add(job);
  std::fputs(table.render(cli::detect_terminal(1)).c_str(), stdout);
  std::fprintf(stderr, "%u in flight, %u at most\n", list->getInFlight(), list->getLimit());
  return cli::exit_done;
}

int cancel_job(const job_flags& f) {
  auto id = parse_id(f.id, 'r', "job");
  if (!id) return report(id.error());
  auto client = reach_head(f.head);
  if (!client) return report(client.error());
  auto command = msg<s::CancelJob>::make([&](s::CancelJob::Builder out) { out.setId(*id); });
  auto answer = (*client)->ask<msg<s::CommandAnswer>>((*client)->router(), from_s(f.head.timeout_s), command);
  if (!answer) return report(answer.error());
  auto in = answer->read();
  std::fprintf(in->getOk() ? stdout : stderr, "%s\n", in->getMessage().cStr());
  return in->getOk() ? cli::exit_done : cli::exit_failed;
}

int wait_for_job(const job_flags& f, double longest_s) {
  auto id = parse_id(f.id, 'r', "job");
  if (!id) return report(id.error());
  auto client = reach_head(f.head);
  if (!client) return report(client.error());
  auto question = msg<s::WaitJob>::make([&](s::WaitJob::Builder out) { out.setId(*id); });
  auto answer = (*client)->ask<msg<s::WaitAnswer>>((*client)->router(), from_s(longest_s), question, (*client)->self());
  if (!answer) return report(answer.error());
  auto in = answer->read();
  if (in->isRefused()) return report({errc::retry, wire::read(in->getRefused())});
  return print_job(in->getJob(), f.format);
}

} // namespace

runner add_jobs(CLI::App& app) {
  auto f = std::make_shared<job_flags>();
  app.add_option("ID", f->id, "Show this job with its text");
  app.add_option("--limit", f->limit, "Newest jobs listed at most")
      ->capture_default_str()
      ->check(CLI::Range(1U, 100000U));
  add_output_option(app, f->format);
  add_head_options(app, f->head);
  add_examples(app, "  hflex jobs\n  hflex jobs r17 -o json");
  return [f] { return list_jobs(*f); };
}

runner add_cancel(CLI::App& app) {
  auto f = std::make_shared<job_flags>();
  app.add_option("ID", f->id, "The job")->required();
  add_head_options(app, f->head);
  add_examples(app, "  hflex cancel r17\n  hflex cancel 17 --head 10.0.0.1:7450");
  return [f] { return cancel_job(*f); };
}

runner add_wait(CLI::App& app) {
  auto f = std::make_shared<job_flags>();
  auto longest = std::make_shared<double>(600);
  app.add_option("ID", f->id, "The job")->required();
  app.add_option("--for-s", *longest, "Longest wait for the job's end, in seconds")
      ->capture_default_str()
      ->check(number_in(0.001, 86400.0));
  add_output_option(app, f->format);
  add_head_options(app, f->head);
  add_examples(app, "  hflex wait r17\n  hflex wait r17 --for-s 60 -o json");
  return [f, longest] { return wait_for_job(*f, *longest); };
}

} // namespace hflex::commands
