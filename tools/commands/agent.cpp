// `hflex agent`: offers this host's devices to a head, until it is told to stop.
#include "tools/runtime/agent.hpp"
#include "tools/cli/exit_code.hpp"
#include "tools/commands/serve.hpp"
#include <algorithm>
#include <csignal>
#include <cstdio>
#include <memory>
#include <spdlog/spdlog.h>

namespace hflex::commands {
namespace {

struct agent_flags {
  config_flags config;
  std::string join;
  std::string devices;
  std::string name;
  std::string listen_host;
  bool no_shm{false};
  bool no_tcp{false};
  std::string host_id;
};

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> words;
  std::string word;
  for (char c : text + ",") {
    if (c != ',')
      word += c;
    else if (!word.empty())
      words.push_back(std::exchange(word, {}));
  }
  return words;
}

/// The entry of this name in the file, else the defaults; flags beat both.
config::agent_config choose(const agent_flags& flags, const config::cluster_config& config) {
  config::agent_config agent;
  if (!config.agents.empty()) agent = config.agents.front();
  auto name = flags.name.empty() ? runtime::host_name() : flags.name;
  for (const auto& entry : config.agents)
    if (entry.name == name) agent = entry;
  agent.name = name;
  if (!flags.devices.empty()) agent.devices = split(flags.devices);
  if (!flags.listen_host.empty()) agent.transport.listen_host = flags.listen_host;
  if (flags.no_shm) agent.transport.shm = false;
  if (flags.no_tcp) agent.transport.tcp = false;
  if (!flags.host_id.empty()) agent.transport.host_id = flags.host_id;
  return agent;
}

int run(const agent_flags& flags) {
  auto address = cli::parse_endpoint(flags.join, 7450);
  if (!address) return usage_error("--join: " + address.error().message);
  auto loaded = flags.config.load();
  if (!loaded) return cli::exit_usage;
  runtime::hold_signals();
  set_up_log(loaded->config.log);
  runtime::agent_plan plan{choose(flags, loaded->config), loaded->config.membership, loaded->config.weights,
      loaded->config.instance.threads};
  const auto devices = runtime::find_devices(plan);
  if (!devices) return report(devices.error());
  wire::system_config actor_config{system_options_of(loaded->config)};
  caf::actor_system system{actor_config};
  auto parts = runtime::start_agent(system, plan, *devices, {}, *address);
  if (!parts) return report(parts.error());
  std::printf("agent %s joins %s\n", plan.agent.name.c_str(), cli::to_string(*address).c_str());
  std::fflush(stdout);
  while (true) {
    auto signal = runtime::next_signal(std::chrono::hours{1});
    if (signal != SIGINT && signal != SIGTERM) continue;
    spdlog::info("agent: leaving; residents finish first (again to end at once)");
    break;
  }
  // A second signal ends the wait: its default action is back.
  runtime::release_signals();
  std::signal(SIGINT, SIG_DFL);
  std::signal(SIGTERM, SIG_DFL);
  if (!runtime::stop_agent(system, *parts, plan.membership.drain_deadline + std::chrono::seconds{5}))
    spdlog::warn("agent: gave up waiting for residents");
  return cli::exit_done;
}

} // namespace

runner add_agent(CLI::App& app) {
  auto flags = std::make_shared<agent_flags>();
  app.add_option("--join", flags->join, "Address of the head, HOST:PORT")->envname("HFLEX_JOIN")->required();
  app.add_option("--devices", flags->devices, "auto, cpu:N (N compute threads) or cuda:0,1");
  app.add_option("--name", flags->name, "Name of this node, unique in the cluster (default: the host's name)");
  app.add_option("--listen-host", flags->listen_host, "Address on which other agents reach this one's KV transport");
  app.add_flag("--no-shm", flags->no_shm, "Do not move KV and weights by shared memory");
  app.add_flag("--no-tcp", flags->no_tcp, "Do not move KV by TCP");
  app.add_option("--host-id", flags->host_id,
         "Another host than the other agents of this machine: shares no memory with them (for tests and benchmarks)")
      ->envname("HFLEX_HOST_ID");
  flags->config.add(app, "--host-cache-mib", "weights.host_cache_mib", "Idle weights that stay in memory, in MiB");
  flags->config.add(app, "--max-mib-per-s", "weights.max_mib_per_s", "Weights given to other hosts, in MiB a second");
  flags->config.add_file(app);
  flags->config.add(app, "--log-level", "log.level", "trace, debug, info, warning, error or off");
  add_examples(app, "  hflex agent --join 10.0.0.1:7450\n  hflex agent --join 127.0.0.1:7450 --name a --devices cpu:2");
  return [flags] { return run(*flags); };
}

} // namespace hflex::commands
