// The one binary: subcommands, each in a file of its own.
#include "actors/common/nearest.hpp"
#include "tools/cli/exit_code.hpp"
#include "tools/cli/terminal.hpp"
#include "tools/commands/commands.hpp"
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <exception>
#include <fmt/ranges.h>
#include <unistd.h>

namespace {

struct command {
  const char* name;
  const char* description;
  hflex::commands::runner (*add)(CLI::App&);
};

constexpr command table[] = {
    {"up", "Run a whole cluster on this machine", hflex::commands::add_up},
    {"head", "Run a head: router, scheduler, scaler, weight coordinator, cluster", hflex::commands::add_head},
    {"agent", "Run a node agent: offers this host's devices to a head", hflex::commands::add_agent},
    {"submit", "Submit jobs and stream their tokens", hflex::commands::add_submit},
    {"jobs", "List jobs, or show one", hflex::commands::add_jobs},
    {"cancel", "Cancel a job", hflex::commands::add_cancel},
    {"wait", "Wait for a job to end and print its result", hflex::commands::add_wait},
    {"migrate", "Move a job that decodes to another instance while it goes on", hflex::commands::add_migrate},
    {"explain", "Say why a job was placed, delayed, moved or turned away, or why the fleet changed",
        hflex::commands::add_explain},
    {"topology", "Show the live actor topology", hflex::commands::add_topology},
    {"ready", "Wait until instances are ready", hflex::commands::add_ready},
    {"role", "Change an instance's role without reloading weights", hflex::commands::add_role},
    {"scale", "Set the size of the fleet, its limits, or let the policy decide", hflex::commands::add_scale},
    {"drain", "Take an instance or a node out of service, losing no request", hflex::commands::add_drain},
    {"model", "What a checkpoint is, and whether it will load", hflex::commands::add_model},
    {"devices", "What this machine offers as devices", hflex::commands::add_devices},
    {"bench", "Measure this machine: the numbers behind claims about speed", hflex::commands::add_bench},
    {"simulate", "Run a cluster in virtual time: policies compared on traces", hflex::commands::add_simulate},
    {"profile", "Measure how long steps take here with a model, for head and simulator", hflex::commands::add_profile},
};

/// The word where a command should stand: CLI11 only says that one is missing.
std::string unknown_command(const CLI::App& app) {
  const auto* at = &app;
  while (!at->get_subcommands().empty()) at = at->get_subcommands().front();
  std::vector<std::string_view> known;
  for (const auto* sub : at->get_subcommands({})) known.push_back(sub->get_name());
  const auto words = at->remaining();
  if (known.empty() || words.empty()) return {};
  auto hint = hflex::did_you_mean(words.front(), known);
  if (hint.empty()) hint = fmt::format("expected one of {}", fmt::join(known, ", "));
  return fmt::format("{} has no command or option '{}': {}", at->get_name(), hflex::cli::one_line(words.front()), hint);
}

/// A full disk must not look like success. Without a reader there is nobody to tell.
int written(int code) {
  errno = 0;
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return code;
  if (!hflex::cli::reader_gone(STDOUT_FILENO))
    std::fprintf(stderr, "hflex: standard output cannot be written%s%s\n", errno != 0 ? ": " : "",
        errno != 0 ? std::strerror(errno) : "");
  return code == hflex::cli::exit_done ? static_cast<int>(hflex::cli::exit_failed) : code;
}

} // namespace

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN); // a peer or reader that is gone is an error of the write
  CLI::App app{"HyperFlexis: an actor-model cluster runtime that serves large language models under many SLOs at once"};
  app.name("hflex");
  app.set_version_flag("--version", "hflex 0.1.0");
  app.require_subcommand(1);
  app.footer("\n`hflex COMMAND --help` shows a command's options and examples.");
  int code = hflex::cli::exit_done;
  for (const auto& c : table) {
    auto* sub = app.add_subcommand(c.name, c.description);
    sub->callback([run = c.add(*sub), &code] {
      if (run) code = run();
    });
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    if (auto unknown = unknown_command(app); e.get_exit_code() != 0 && !unknown.empty()) {
      std::fprintf(stderr, "hflex: %s\n", unknown.c_str());
      return hflex::cli::exit_usage;
    }
    auto shown = app.exit(e); // prints help, version or what was wrong
    return shown == 0 ? written(hflex::cli::exit_done) : static_cast<int>(hflex::cli::exit_usage);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "hflex: %s\n", e.what());
    return hflex::cli::exit_failed;
  }
  return written(code);
}
