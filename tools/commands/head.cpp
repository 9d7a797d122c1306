// `hflex head`: the control actors of a cluster, until it is told to stop.
#include "tools/runtime/head.hpp"
#include "tools/cli/exit_code.hpp"
#include "tools/commands/serve.hpp"
#include "tools/runtime/process.hpp"
#include <csignal>
#include <cstdio>
#include <memory>
#include <spdlog/spdlog.h>

namespace hflex::commands {
namespace {

int run(const config_flags& flags) {
  auto loaded = flags.load();
  if (!loaded) return cli::exit_usage;
  if (loaded->config.model.empty()) loaded->config.model = default_model();
  if (flags.print_only()) {
    std::fputs(config::print_config(*loaded).c_str(), stdout);
    return cli::exit_done;
  }
  runtime::hold_signals();
  set_up_log(loaded->config.log);
  wire::system_config actor_config{system_options_of(loaded->config)};
  caf::actor_system system{actor_config};
  auto head = runtime::start_head(system, loaded->config);
  if (!head) return report(head.error());
  std::printf("head listens on %s\n", cli::to_string(cli::endpoint{loaded->config.listen.host, head->port}).c_str());
  std::fflush(stdout);
  while (true) {
    auto signal = runtime::next_signal(std::chrono::hours{1});
    if (signal == SIGINT || signal == SIGTERM) break;
  }
  cluster::stop_head(head->actors);
  return cli::exit_done;
}

} // namespace

runner add_head(CLI::App& app) {
  auto flags = std::make_shared<config_flags>();
  flags->add_file(app);
  flags->add(app, "--host", "listen.host", "Address to listen on");
  flags->add(app, "--port", "listen.port", "Port to listen on, 0 = any free one");
  flags->add(app, "--model", "model", "Checkpoint directory or GGUF file");
  flags->add(app, "--mode", "mode", "collocated or disaggregated");
  flags->add(app, "--policy", "scheduler.policy", "Scheduling policy");
  flags->add(app, "--expect-nodes", "membership.expect_nodes", "Nodes that the first placement waits for");
  flags->add(app, "--log-level", "log.level", "trace, debug, info, warning, error or off");
  add_examples(app, "  hflex head -C config/cluster.example.yaml\n  hflex head --model /models/llama --mode "
                    "disaggregated --host 10.0.0.1");
  return [flags] { return run(*flags); };
}

} // namespace hflex::commands
