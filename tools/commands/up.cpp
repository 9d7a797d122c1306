// `hflex up`: a whole cluster on this machine: the head here, and the agents here too (--agents 0) or in processes of
// their own, which are started again when they die.
#include "tools/cli/exit_code.hpp"
#include "tools/commands/serve.hpp"
#include "tools/runtime/agent.hpp"
#include "tools/runtime/child.hpp"
#include "tools/runtime/head.hpp"
#include <csignal>
#include <cstdio>
#include <map>
#include <memory>
#include <spdlog/spdlog.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

namespace hflex::commands {
namespace {

struct up_flags {
  config_flags config;
  std::uint32_t agents{0};
  std::uint32_t instances{0};
};

/// So many instances, shared out over the roles of the mode: of an odd number, decode has one more than prefill.
std::vector<config::fleet_entry> fleet_of(std::uint32_t instances, config::serving_mode mode) {
  if (mode == config::serving_mode::collocated) return {{instance_role::mixed, instances}};
  return {{instance_role::prefill, instances / 2}, {instance_role::decode, instances - instances / 2}};
}

/// The agent processes that this one keeps alive.
class children {
public:
  children(std::uint32_t count, std::string head, std::uint32_t threads, std::string log)
      : count_(count), head_(std::move(head)), threads_(threads), log_(std::move(log)) {}

  void start_all() {
    for (std::uint32_t i = 0; i < count_; ++i) start(i);
  }

  /// Collects the dead; each is started again after a rest, by restart_due.
  void reap() {
    int status = 0;
    for (pid_t pid = 0; (pid = ::waitpid(-1, &status, WNOHANG)) > 0;) {
      auto found = running_.find(pid);
      if (found == running_.end()) continue;
      spdlog::warn("up: agent-{} (pid {}) ended ({}); it is started again", found->second + 1, pid,
          WIFSIGNALED(status) ? fmt::format("signal {}", WTERMSIG(status))
                              : fmt::format("exit {}", WEXITSTATUS(status)));
      due_.emplace_back(std::chrono::steady_clock::now() + std::chrono::seconds{1}, found->second);
      running_.erase(found);
    }
  }

  void restart_due() {
    auto now = std::chrono::steady_clock::now();
    for (auto i = due_.begin(); i != due_.end();) {
      if (i->first > now) {
        ++i;
        continue;
      }
      start(i->second);
      i = due_.erase(i);
    }
  }

  bool restart_pending() const { return !due_.empty(); }

  /// Asks all to leave; ends those that do not within `grace`.
  void stop_all(duration grace) {
    for (const auto& [pid, index] : running_) ::kill(pid, SIGTERM);
    auto deadline = std::chrono::steady_clock::now() + grace;
    while (!running_.empty() && std::chrono::steady_clock::now() < deadline) {
      runtime::next_signal(std::chrono::milliseconds{50});
      collect();
    }
    for (const auto& [pid, index] : running_) ::kill(pid, SIGKILL);
    while (!running_.empty()) {
      for (const auto& [pid, index] : running_) ::waitpid(pid, nullptr, 0);
      running_.clear();
    }
  }

private:
  void collect() {
    int status = 0;
    for (pid_t pid = 0; (pid = ::waitpid(-1, &status, WNOHANG)) > 0;) running_.erase(pid);
  }

  void start(std::uint32_t index) {
    auto name = fmt::format("agent-{}", index + 1);
    auto devices = fmt::format("cpu:{}", threads_);
    auto pid =
        runtime::start_self({"agent", "--join", head_, "--name", name, "--devices", devices, "--log-level", log_});
    if (!pid) {
      spdlog::error("up: {}: {}", name, pid.error().message);
      due_.emplace_back(std::chrono::steady_clock::now() + std::chrono::seconds{1}, index);
      return;
    }
    running_[*pid] = index;
    spdlog::info("up: {} runs as pid {}", name, *pid);
  }

  std::uint32_t count_;
  std::string head_;
  std::uint32_t threads_;
  std::string log_;
  std::map<pid_t, std::uint32_t> running_;
  std::vector<std::pair<std::chrono::steady_clock::time_point, std::uint32_t>> due_;
};

void wait_for_end(children& agents) {
  while (true) {
    auto signal = runtime::next_signal(
        agents.restart_pending() ? duration{std::chrono::milliseconds{200}} : duration{std::chrono::hours{1}});
    if (signal == SIGINT || signal == SIGTERM) return;
    agents.reap();
    agents.restart_due();
  }
}

int run(const up_flags& flags) {
  auto loaded = flags.config.load();
  if (!loaded) return cli::exit_usage;
  auto& config = loaded->config;
  config.membership.expect_nodes = std::max(1U, flags.agents); // they come within milliseconds of each other
  if (config.model.empty()) config.model = default_model();
  if (flags.instances == 1 && config.mode == config::serving_mode::disaggregated)
    return usage_error("--instances: expected 2 or more, as disaggregated instances prefill or decode");
  if (flags.instances > 0) config.fleet = fleet_of(flags.instances, config.mode);
  if (flags.config.print_only()) {
    std::fputs(config::print_config(*loaded).c_str(), stdout);
    return cli::exit_done;
  }
  runtime::hold_signals();
  set_up_log(config.log);
  // Whatever is at fault with the model or the devices is known before the head says that it listens.
  if (!config.model.empty() && !model_loads(config.model)) return cli::exit_usage;
  const runtime::agent_plan plan{config.agents.empty() ? config::agent_config{} : config.agents.front(),
      config.membership, config.weights, config.instance.threads};
  std::shared_ptr<const runtime::machine_plan> devices;
  if (flags.agents == 0) {
    auto found = runtime::find_devices(plan);
    if (!found) return report(found.error());
    devices = std::move(*found);
  }
  wire::system_config actor_config{system_options_of(config)};
  caf::actor_system system{actor_config};
  auto head = runtime::start_head(system, config);
  if (!head) return report(head.error());
  cli::endpoint address{config.listen.host, head->port};
  std::printf("head listens on %s\n", cli::to_string(address).c_str());
  std::fflush(stdout);

  auto cores = std::max(1U, std::thread::hardware_concurrency());
  children agents{flags.agents, cli::to_string(address), std::max(1U, cores / std::max(1U, flags.agents)),
      std::string{config::to_string(config.log)}};
  if (flags.agents > 0) {
    agents.start_all();
    wait_for_end(agents);
    agents.stop_all(std::chrono::seconds{3});
    cluster::stop_head(head->actors);
    return cli::exit_done;
  }
  auto parts = runtime::start_agent(system, plan, devices, head->actors.cluster, address);
  if (!parts) {
    cluster::stop_head(head->actors); // the actor system waits for its actors
    return report(parts.error());
  }
  wait_for_end(agents);
  cluster::stop_head(head->actors); // requests end first; then nothing keeps the agent's instances busy
  runtime::stop_agent(system, *parts, std::chrono::seconds{3});
  return cli::exit_done;
}

} // namespace

runner add_up(CLI::App& app) {
  auto flags = std::make_shared<up_flags>();
  flags->config.add_file(app);
  app.add_option("--agents", flags->agents, "Agent processes; 0 = everything in this process")
      ->capture_default_str()
      ->check(CLI::Range(0U, 64U));
  app.add_option("--instances", flags->instances, "Instances, instead of the configuration's fleet")
      ->check(CLI::Range(1U, 64U));
  flags->config.add(app, "--mode", "mode", "collocated or disaggregated");
  flags->config.add(app, "--model", "model", "Checkpoint directory or GGUF file (default: the demo model)");
  flags->config.add(app, "--host", "listen.host", "Address to listen on");
  flags->config.add(app, "--port", "listen.port", "Port to listen on, 0 = any free one");
  flags->config.add(app, "--policy", "scheduler.policy", "Scheduling policy");
  flags->config.add(app, "--log-level", "log.level", "trace, debug, info, warning, error or off");
  add_examples(app, "  hflex up\n  hflex up --agents 2 --instances 2\n  hflex up --agents 2 --mode disaggregated\n  "
                    "hflex up -C config/local.yaml --policy least_loaded");
  return [flags] { return run(*flags); };
}

} // namespace hflex::commands
