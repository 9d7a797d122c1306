// `hflex submit`: jobs in, tokens out. A client actor submits them all and hears of each token; this thread prints.
#include "actors/common/metrics.hpp"
#include "actors/wire/convert.hpp"
#include "tools/cli/exit_code.hpp"
#include "tools/cli/json_line.hpp"
#include "tools/cli/progress.hpp"
#include "tools/cli/prompt_file.hpp"
#include "tools/cli/units.hpp"
#include "tools/commands/commands.hpp"
#include "tools/commands/job_view.hpp"
#include "tools/runtime/client.hpp"
#include "tools/runtime/process.hpp"
#include <csignal>
#include <cstdio>
#include <deque>
#include <memory>

namespace hflex::commands {
namespace {

namespace s = wire::schema;
using wire::msg;

struct submit_flags {
  head_options head;
  std::vector<std::string> prompts;
  std::string file;
  std::string slo;
  double ttft_ms{0};
  double tpot_ms{0};
  std::uint32_t max_tokens{0};
  double temperature{0};
  double top_p{1};
  std::uint32_t top_k{0};
  std::uint64_t seed{0};
  bool ignore_eos{false};
  bool detach{false};
  bool chat{false};
  std::string system;
  std::uint32_t concurrency{256};
  double longest_s{600};
  output format{output::text};
};

time_point steady_now() {
  return time_point{std::chrono::duration_cast<duration>(std::chrono::steady_clock::now().time_since_epoch())};
}

/// A prompt becomes what the user says; a line that has messages keeps them.
void as_conversation(const submit_flags& f, cli::prompt_line& line) {
  if (!line.messages.empty()) return;
  if (!f.system.empty()) line.messages.push_back({"system", f.system});
  line.messages.push_back({"user", std::exchange(line.prompt, {})});
}

/// Every prompt of the command line and the file; faults are on stderr when there is none.
std::optional<std::vector<cli::prompt_line>> gather(const submit_flags& f) {
  std::vector<cli::prompt_line> lines;
  for (const auto& p : f.prompts) {
    if (p.empty()) {
      usage_error("-p: expected text that is not empty");
      return std::nullopt;
    }
    cli::prompt_line line;
    line.prompt = p;
    lines.push_back(line);
  }
  if (!f.file.empty()) {
    auto read = cli::read_prompt_file(f.file);
    if (!read) {
      for (const auto& fault : read.error()) std::fprintf(stderr, "%s\n", fault.c_str());
      return std::nullopt;
    }
    lines.insert(lines.end(), read->begin(), read->end());
  }
  if (f.chat)
    for (auto& line : lines) as_conversation(f, line);
  if (lines.empty()) {
    usage_error("nothing to submit: give -p TEXT, --file F.jsonl, or - for JSON lines on standard input");
    return std::nullopt;
  }
  return lines;
}

msg<s::SubmitJob> make_job(const submit_flags& f, const cli::prompt_line& line) {
  auto words = line.prompt.size() / 8; // of the message: 8 bytes each
  for (const auto& turn : line.messages) words += 8 + turn.content.size() / 8;
  return msg<s::SubmitJob>::make(
      [&](s::SubmitJob::Builder out) {
        out.setPrompt(line.prompt);
        auto messages = out.initMessages(static_cast<unsigned>(line.messages.size()));
        for (unsigned i = 0; i < messages.size(); ++i) {
          messages[i].setRole(line.messages[i].role);
          messages[i].setContent(line.messages[i].content);
        }
        out.setMaxOutputTokens(line.max_tokens.value_or(f.max_tokens));
        auto sampling = out.initSampling();
        sampling.setTemperature(static_cast<float>(line.temperature.value_or(f.temperature)));
        sampling.setTopP(static_cast<float>(line.top_p.value_or(f.top_p)));
        sampling.setTopK(f.top_k);
        sampling.setSeed(line.seed.value_or(f.seed));
        out.setIgnoreEos(line.ignore_eos.value_or(f.ignore_eos));
        out.setSloClass(line.slo.value_or(f.slo));
        out.setTtftTargetMs(line.ttft_ms.value_or(f.ttft_ms));
        out.setTpotTargetMs(line.tpot_ms.value_or(f.tpot_ms));
        out.setDetach(f.detach);
      },
      64 + words);
}

/// What ends in the table per class: times as the router measured them.
request_record to_record(s::JobRecord::Reader job) {
  request_record r;
  r.slo_class = wire::read(job.getSloClass());
  r.slo.ttft = from_ms(job.getTtftTargetMs());
  r.slo.tpot = from_ms(job.getTpotTargetMs());
  r.result = wire::from_wire(job.getOutcome());
  r.timing.output_tokens = job.getOutputTokens();
  if (job.getTtftMs() >= 0) {
    r.timing.first_token = time_point{} + from_ms(job.getTtftMs());
    r.timing.last_token =
        *r.timing.first_token +
        from_ms(std::max(job.getTpotMs(), 0.0)) * static_cast<std::int64_t>(std::max(job.getOutputTokens(), 1U) - 1);
  }
  return r;
}

std::string class_table(const std::vector<request_record>& records, duration wall, const cli::terminal& on) {
  auto report = summarize(records, wall);
  cli::table table({{"CLASS"}, {"REQUESTS", cli::align::right}, {"FINISHED", cli::align::right},
      {"ATTAINMENT", cli::align::right}, {"TTFT p50", cli::align::right}, {"TTFT p99", cli::align::right},
      {"TPOT p50", cli::align::right}, {"TPOT p99", cli::align::right}});
  auto add = [&](const slo_summary& c, const std::string& name) {
    table.add({name, std::to_string(c.requests), std::to_string(c.finished), cli::human_percent(c.attainment),
        cli::human_duration(from_ms(c.ttft.p50_ms)), cli::human_duration(from_ms(c.ttft.p99_ms)),
        cli::human_duration(from_ms(c.tpot.p50_ms)), cli::human_duration(from_ms(c.tpot.p99_ms))});
  };
  for (const auto& c : report.classes) add(c, c.slo_class);
  add(report.overall, "all");
  return table.render(on) + fmt::format("{} output tokens in {}, goodput {:.2f} requests/s\n",
                                report.overall.output_tokens, cli::human_duration(wall), report.overall.goodput_per_s);
}

class session {
public:
  session(const submit_flags& f, std::vector<cli::prompt_line> lines, runtime::head_client& client)
      : f_(f), lines_(std::move(lines)), client_(client), out_(cli::detect_terminal(1)), err_(cli::detect_terminal(2)),
        start_(steady_now()), progress_("jobs", err_, start_) {}

  int run() {
    auto deadline = start_ + from_s(f_.longest_s);
    while (next_ < lines_.size() || !open_.empty()) {
      while (next_ < lines_.size() && open_.size() < f_.concurrency)
        if (auto ok = submit_next(); !ok) return lost(ok.error().message);
      if (f_.detach) {
        open_.clear();
        continue;
      }
      if (open_.empty()) continue;
      auto event = client_.events().take(std::chrono::milliseconds{100});
      if (event && !hear(*event)) return cli::exit_failed;
      if (auto signal = runtime::next_signal(duration{0}); signal == SIGINT || signal == SIGTERM)
        return lost("interrupted: the jobs that were not detached are cancelled");
      if (std::ferror(stdout) != 0 || cli::reader_gone(1))
        return lost("the output is not taken any more: the jobs that were not detached are cancelled");
      if (steady_now() > deadline) return lost(fmt::format("gave up after {} s (--for-s)", f_.longest_s));
      show_progress();
    }
    finish();
    return failed_ > 0 ? cli::exit_failed : cli::exit_done;
  }

private:
  bool single() const { return lines_.size() == 1; }
  bool live() const { return single() && f_.format == output::text; }

  result<void> submit_next() {
    auto index = next_++;
    auto answer = client_.ask<msg<s::SubmitAnswer>>(
        client_.router(), from_s(f_.head.timeout_s), make_job(f_, lines_[index]), client_.self());
    if (!answer) return pass(answer.error());
    auto in = answer->read();
    if (in->isRefused()) {
      ++failed_;
      ++done_;
      clear_line();
      if (f_.format == output::json)
        print(cli::json_line(
            {{"id", nullptr}, {"line", index + 1}, {"outcome", "refused"}, {"reason", wire::read(in->getRefused())}}));
      std::fprintf(stderr, "hflex: %srefused: %s\n", single() ? "" : fmt::format("job {} ", index + 1).c_str(),
          in->getRefused().cStr());
      return {};
    }
    request_id id{in->getAccepted()};
    open_.insert(id);
    if (f_.detach) print(f_.format == output::json ? cli::json_line({{"id", to_string(id)}}) : to_string(id) + "\n");
    return {};
  }

  /// False when nothing more can come.
  bool hear(const runtime::client_event& event) {
    if (const auto* chunk = std::get_if<msg<s::TokenChunk>>(&event)) {
      auto in = chunk->read();
      tokens_ += in->getTokens().size();
      if (live()) print(wire::read(in->getText()));
    } else if (const auto* record = std::get_if<msg<s::JobRecord>>(&event)) {
      ended(*record);
    } else if (const auto* gone = std::get_if<runtime::head_lost>(&event)) {
      lost("the head is gone: " + gone->reason);
      return false;
    }
    return true;
  }

  void ended(const msg<s::JobRecord>& record) {
    auto in = record.read();
    if (open_.erase(request_id{in->getId()}) == 0) return;
    ++done_;
    records_.push_back(to_record(*in));
    auto finished = in->getOutcome() == s::Outcome::FINISHED;
    if (!finished) ++failed_;
    clear_line();
    if (f_.format == output::json) {
      print(cli::json_line(job_json(*in)));
    } else if (single()) {
      print("\n");
      if (!finished) std::fprintf(stderr, "hflex: %s: %s\n", job_state(*in).c_str(), in->getReason().cStr());
      if (err_.is_terminal)
        std::fprintf(stderr, "%s\n",
            cli::paint(
                fmt::format("{}: {} tokens, TTFT {}, TPOT {}, SLO {}", to_string(request_id{in->getId()}),
                    in->getOutputTokens(), cli::human_duration(from_ms(std::max(in->getTtftMs(), 0.0))),
                    cli::human_duration(from_ms(std::max(in->getTpotMs(), 0.0))), in->getAttained() ? "met" : "missed"),
                cli::style::dim, err_)
                .c_str());
    } else {
      print(fmt::format("{} [{}] {}\n{}\n\n", to_string(request_id{in->getId()}), wire::read(in->getSloClass()),
          cli::paint(job_state(*in) + " (" + cli::one_line(wire::read(in->getReason())) + ")", state_style(*in), out_),
          wire::read(in->getText())));
    }
  }

  void show_progress() {
    if (live()) return;
    auto text = progress_.update(done_, lines_.size(), fmt::format("{} tokens", tokens_), steady_now());
    if (!text.empty()) std::fputs(text.c_str(), stderr);
  }

  void clear_line() {
    if (err_.is_terminal && !live()) std::fputs("\r\033[K", stderr);
  }

  void finish() {
    if (f_.detach || live()) return;
    std::fputs(progress_.finish(failed_ == 0 ? "done" : fmt::format("ended, {} did not finish,", failed_), steady_now())
                   .c_str(),
        stderr);
    if (!single() && !records_.empty()) std::fputs(class_table(records_, steady_now() - start_, err_).c_str(), stderr);
  }

  int lost(const std::string& why) {
    clear_line();
    std::fprintf(stderr, "hflex: %s; %zu of %zu jobs had ended\n", why.c_str(), done_, lines_.size());
    return cli::exit_failed;
  }

  static void print(const std::string& text) {
    std::fputs(text.c_str(), stdout);
    std::fflush(stdout);
  }

  const submit_flags& f_;
  std::vector<cli::prompt_line> lines_;
  runtime::head_client& client_;
  cli::terminal out_;
  cli::terminal err_;
  time_point start_;
  cli::progress progress_;
  std::size_t next_{0};
  std::size_t done_{0};
  std::size_t failed_{0};
  std::size_t tokens_{0};
  std::set<request_id> open_;
  std::vector<request_record> records_;
};

int run(const submit_flags& f) {
  auto lines = gather(f);
  if (!lines) return cli::exit_usage;
  runtime::hold_signals();
  auto client = reach_head(f.head);
  if (!client) return report(client.error());
  return session{f, std::move(*lines), **client}.run();
}

} // namespace

runner add_submit(CLI::App& app) {
  auto f = std::make_shared<submit_flags>();
  app.add_option("-p,--prompt", f->prompts, "A prompt; may be repeated");
  auto* chat = app.add_flag(
      "--chat", f->chat, "A prompt is a message to an assistant, put into the frame of the model's chat template");
  app.add_option("--system", f->system, "With --chat: what the assistant is told first")->needs(chat);
  app.add_option("--file,FILE", f->file,
      "JSON lines: {\"prompt\" or \"messages\": [{\"role\", \"content\"}], \"slo\", \"max_tokens\", \"temperature\", "
      "\"top_p\", \"seed\", \"ttft_ms\", "
      "\"tpot_ms\", \"ignore_eos\"}; - for standard input");
  app.add_option("--slo", f->slo, "SLO class (default: the head's)");
  app.add_option("--ttft-ms", f->ttft_ms, "Target time to the first token, instead of the class's")
      ->check(number_in(0.001, 86400000.0));
  app.add_option("--tpot-ms", f->tpot_ms, "Target time per output token, instead of the class's")
      ->check(number_in(0.001, 86400000.0));
  app.add_option("--max-tokens", f->max_tokens, "Most output tokens (default: the head's)")
      ->check(CLI::Range(1U, 1000000U));
  app.add_option("--temperature", f->temperature, "0 = the likeliest token each time")
      ->capture_default_str()
      ->check(number_in(0.0, 10.0));
  app.add_option("--top-p", f->top_p, "Sample from the likeliest tokens with this total probability")
      ->capture_default_str()
      ->check(number_in(0.0, 1.0));
  app.add_option("--top-k", f->top_k, "Sample from so many of the likeliest tokens; 0 = all")->capture_default_str();
  app.add_option("--seed", f->seed, "Same seed, same tokens")->capture_default_str()->check(whole_number());
  app.add_flag("--ignore-eos", f->ignore_eos, "Go on past the end of the text, up to --max-tokens");
  app.add_flag("--detach", f->detach, "Print ids and end; see `hflex jobs` and `hflex wait`");
  app.add_option("--concurrency", f->concurrency, "Jobs under way at a time")
      ->capture_default_str()
      ->check(CLI::Range(1U, 100000U));
  app.add_option("--for-s", f->longest_s, "Longest wait for all jobs to end, in seconds")
      ->capture_default_str()
      ->check(number_in(0.001, 86400.0));
  add_output_option(app, f->format, "text or json (one line per job at its end)");
  add_head_options(app, f->head);
  add_examples(app, "  hflex submit -p 'It is a truth universally acknowledged' --slo interactive\n  hflex submit "
                    "--file examples/prompts.jsonl -o json\n  hflex submit --chat -p 'Who wrote Emma?' --system "
                    "'Answer in one sentence.'\n  echo '{\"prompt\": \"Hello\"}' | hflex submit -");
  return [f] { return run(*f); };
}

} // namespace hflex::commands
