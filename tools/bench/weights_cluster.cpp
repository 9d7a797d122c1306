#include "tools/bench/weights_cluster.hpp"
#include "actors/wire/convert.hpp"
#include "tools/runtime/child.hpp"
#include <algorithm>
#include <condition_variable>
#include <csignal>
#include <fcntl.h>
#include <mutex>
#include <sys/wait.h>
#include <unistd.h>

namespace hflex::bench {

namespace s = wire::schema;
using wire::msg;

namespace {

/// Starts are measured here, not the time in which a death is noticed: a process that a busy machine does not run for
/// seconds is no reason to end.
constexpr auto silence = std::chrono::seconds{60};

double ms_between(wall_clock::time_point a, wall_clock::time_point b) {
  return std::chrono::duration<double, std::milli>(b - a).count();
}

} // namespace

class start_desk {
public:
  struct ended {
    wall_clock::time_point at;
    std::string fault;
    double started_ms{};
    start_parts parts;
  };

  /// Agents join one after the other, and are known by their place in that order; one that joins again keeps it.
  void joined(std::uint32_t node, const wire::node_agent_actor& agent) {
    const std::lock_guard lock{mutex_};
    const auto known = std::find(nodes_.begin(), nodes_.end(), node);
    if (known == nodes_.end()) nodes_.push_back(node);
    agents_.resize(nodes_.size());
    agents_.at(static_cast<std::size_t>(std::find(nodes_.begin(), nodes_.end(), node) - nodes_.begin())) = agent;
    changed_.notify_all();
  }

  void state(s::InstanceState::Reader in) {
    const auto phase = in.getPhase();
    if (phase != s::InstancePhase::READY && phase != s::InstancePhase::FAILED && phase != s::InstancePhase::GONE)
      return;
    if (phase == s::InstancePhase::READY && in.getStartedMs() <= 0) return; // of a life already announced
    const std::lock_guard lock{mutex_};
    auto& e = ended_[in.getInstance()];
    e.at = wall_clock::now();
    e.started_ms = in.getStartedMs();
    if (phase != s::InstancePhase::READY) e.fault = "it ended: " + wire::read(in.getReason());
    const auto p = in.getParts();
    e.parts.plan = p.getPlanMs();
    e.parts.weights = p.getWeightsMs();
    e.parts.allocate = p.getAllocateMs();
    e.parts.warm_up = p.getWarmUpMs();
    e.parts.link = p.getLinkMs();
    e.parts.path = wire::read(in.getWeightsPath());
    e.parts.device = wire::read(in.getDeviceWeights());
    changed_.notify_all();
  }

  bool wait_for_agents(std::size_t count) {
    std::unique_lock lock{mutex_};
    return changed_.wait_for(lock, patience, [&] { return agents_.size() >= count; });
  }

  wire::node_agent_actor agent(std::size_t index) {
    const std::lock_guard lock{mutex_};
    return agents_.at(index);
  }

  std::optional<ended> wait_for(std::uint32_t instance) {
    std::unique_lock lock{mutex_};
    if (!changed_.wait_for(lock, patience, [&] { return ended_.count(instance) > 0; })) return std::nullopt;
    return ended_.at(instance);
  }

private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::uint32_t> nodes_;
  std::vector<wire::node_agent_actor> agents_; ///< parallel
  std::map<std::uint32_t, ended> ended_;
};

namespace {

msg<s::CommandAnswer> no_command() {
  return msg<s::CommandAnswer>::make([](s::CommandAnswer::Builder out) { out.setMessage("a benchmark's scaler"); });
}

wire::scaler_actor::behavior_type desk_scaler(wire::scaler_actor::pointer, std::shared_ptr<start_desk> desk) {
  using wire::on;
  using wire::on_ask;
  return {
      on<s::NodeUp, wire::node_agent_actor>(
          [desk](s::NodeUp::Reader in, const wire::node_agent_actor& agent) { desk->joined(in.getNode(), agent); }),
      on<s::NodeGone>([](s::NodeGone::Reader) {}),
      on<s::InstanceState>([desk](s::InstanceState::Reader in) { desk->state(in); }),
      on<s::WeightsExpected>([](s::WeightsExpected::Reader) {}),
      on_ask<msg<s::CommandAnswer>, s::ChangeRole>([](s::ChangeRole::Reader) { return no_command(); }),
      on_ask<msg<s::CommandAnswer>, s::Drain>([](s::Drain::Reader) { return no_command(); }),
      on_ask<msg<s::CommandAnswer>, s::ScaleFleet>([](s::ScaleFleet::Reader) { return no_command(); }),
      on_ask<msg<s::ScalingLog>, s::ScalingQuery>([](s::ScalingQuery::Reader) { return msg<s::ScalingLog>{}; }),
      on<s::DemandReport>([](s::DemandReport::Reader) {}),
      on<s::Tick>([](s::Tick::Reader) {}),
  };
}

config::cluster_config config_of(const std::string& model) {
  config::cluster_config c;
  c.model = model;
  c.listen.port = 0;
  c.instance.kv_memory_mib = 64;
  c.membership.suspect_after = silence / 2;
  c.membership.lost_after = silence;
  return c;
}

} // namespace

struct weights_cluster::actors {
  wire::system_config config{wire::system_options{.peer_timeout = silence}};
  caf::actor_system system{config};
  wire::scaler_actor scaler;
  runtime::running_head head;
};

weights_cluster::weights_cluster()
    : actors_(std::make_unique<actors>()), desk_(std::make_shared<start_desk>()),
      nowhere_(::open("/dev/null", O_WRONLY | O_CLOEXEC)) {}

result<std::unique_ptr<weights_cluster>> weights_cluster::start(const std::string& model) {
  std::unique_ptr<weights_cluster> made{new weights_cluster};
  auto& a = *made->actors_;
  const auto config = config_of(model);
  a.scaler = a.system.spawn(desk_scaler, made->desk_);
  auto head = runtime::start_head(a.system, config, a.scaler);
  if (!head) return pass(head.error());
  a.head = std::move(*head);
  const cli::endpoint at{"127.0.0.1", a.head.port};
  made->head_ = cli::to_string(at);
  made->options_ = runtime::instance_options_of(config, step_policy::slack_budget);
  auto client = runtime::head_client::connect(at, std::chrono::seconds{10});
  if (!client) return pass(client.error());
  made->client_ = std::move(*client);
  return made;
}

weights_cluster::~weights_cluster() {
  client_.reset();
  for (const auto pid : processes_) ::kill(pid, SIGKILL);
  for (const auto pid : processes_) ::waitpid(pid, nullptr, 0);
  if (actors_->head.port != 0) cluster::stop_head(actors_->head.actors);
  actors_->head = runtime::running_head{};
  actors_->scaler = wire::scaler_actor{};
}

result<std::size_t> weights_cluster::add_agent(const agent_process& agent) {
  const auto index = processes_.size();
  const std::vector<std::string> words{"agent", "--join", head_, "--name", fmt::format("agent-{}", index), "--host-id",
      agent.host, "--devices", agent.devices, "--max-mib-per-s", std::to_string(agent.max_mib_per_s), "--log-level",
      "error"};
  const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(silence).count();
  const auto pid = runtime::start_self(words, nowhere_.get(), // what it says of itself is not the bench's
      {fmt::format("HFLEX_MEMBERSHIP_LOST_AFTER_MS={}", ms),
          fmt::format("HFLEX_MEMBERSHIP_SUSPECT_AFTER_MS={}", ms / 2),
          fmt::format("HFLEX_WEIGHTS_SERVE_WHILE_LOADING={}", agent.serves_while_loading)});
  if (!pid) return pass(pid.error());
  processes_.push_back(*pid);
  if (!desk_->wait_for_agents(processes_.size())) return fail(errc::retry, "agent {} did not join", index);
  return index;
}

void weights_cluster::order(std::size_t agent, std::uint32_t instance) {
  wire::tell_from_outside(desk_->agent(agent), msg<s::StartInstance>::make([&](s::StartInstance::Builder out) {
    out.setInstance(instance);
    out.setRole(s::Role::MIXED);
    wire::write(out.initOptions(), options_);
  }));
}

void weights_cluster::retire_running() {
  for (const auto id : instances_)
    wire::tell_from_outside(actors_->head.actors.scheduler,
        msg<s::InstanceDraining>::make([&](s::InstanceDraining::Builder out) { out.setInstance(id); }));
}

result<void> weights_cluster::submit(const std::string& prompt) {
  const auto job = msg<s::SubmitJob>::make([&](s::SubmitJob::Builder out) {
    out.setPrompt(prompt);
    out.setMaxOutputTokens(1);
    out.setIgnoreEos(true);
  });
  auto answer = client_->ask<msg<s::SubmitAnswer>>(client_->router(), std::chrono::seconds{10}, job, client_->self());
  if (!answer) return pass(answer.error());
  if (!answer->read()->isAccepted()) return fail(errc::reject, "the router refused the request");
  return {};
}

result<std::vector<double>> weights_cluster::first_tokens(std::size_t count, wall_clock::time_point since) {
  std::vector<double> times;
  while (times.size() < count) {
    auto event = client_->events().take(patience);
    if (!event) return fail(errc::retry, "{} of {} requests had no first token in time", count - times.size(), count);
    if (const auto* lost = std::get_if<runtime::head_lost>(&*event))
      return fail(errc::retry, "the head is gone: {}", lost->reason);
    if (std::holds_alternative<msg<s::TokenChunk>>(*event)) times.push_back(ms_between(since, wall_clock::now()));
    const auto* end = std::get_if<msg<s::JobRecord>>(&*event);
    if (end != nullptr && end->read()->getOutcome() != s::Outcome::FINISHED)
      return fail(
          errc::retry, "a request that waited for its first token ended: {}", wire::read(end->read()->getReason()));
  }
  return times;
}

result<std::vector<start_parts>> weights_cluster::start_instances(
    const std::vector<std::size_t>& agents, const std::string& prompt) {
  const bool with_requests = !prompt.empty();
  std::vector<std::uint32_t> ids;
  const auto begun = wall_clock::now();
  for (const auto agent : agents) {
    ids.push_back(++last_instance_);
    order(agent, ids.back());
  }
  if (with_requests)
    for (std::size_t i = 0; i < agents.size(); ++i)
      if (auto ok = submit(prompt); !ok) return pass(ok.error());
  std::vector<double> tokens;
  if (with_requests) {
    auto times = first_tokens(agents.size(), begun);
    if (!times) return pass(times.error());
    tokens = std::move(*times);
  }
  std::vector<start_parts> all;
  for (const auto id : ids) {
    auto ended = desk_->wait_for(id);
    if (!ended) return fail(errc::retry, "i{} was not ready in time", id);
    if (!ended->fault.empty()) return fail(errc::retry, "i{}: {}", id, ended->fault);
    auto p = ended->parts;
    p.ready = ms_between(begun, ended->at);
    p.messages = p.ready - ended->started_ms - p.link;
    p.spawn = ended->started_ms - p.plan - p.weights - p.allocate - p.warm_up;
    all.push_back(std::move(p));
  }
  // A request goes to whoever is ready first, so tokens are told of the whole, not of one instance.
  for (std::size_t i = 0; i < all.size() && with_requests; ++i) all[i].first_token = tokens[i];
  instances_.insert(instances_.end(), ids.begin(), ids.end());
  return all;
}

} // namespace hflex::bench
