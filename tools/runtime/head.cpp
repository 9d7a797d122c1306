#include "tools/runtime/head.hpp"
#include "actors/scheduler/policy.hpp"
#include "gpu/model/model_config.hpp"
#include "tools/cli/endpoint.hpp"
#include "tools/runtime/process.hpp"
#include <algorithm>
#include <charconv>
#include <filesystem>
#include <map>
#include <random>
#include <spdlog/spdlog.h>

namespace hflex::runtime {
namespace {

cluster::head_settings settings_of(const config::cluster_config& c, const gpu::model_config& model, step_policy steps) {
  cluster::head_settings s;
  s.scheduler.policy = c.scheduler.policy;
  s.scheduler.max_queued = c.scheduler.max_queued;
  s.scheduler.max_wait = c.scheduler.max_wait;
  s.scheduler.max_explained = std::min(c.router.max_in_flight + c.router.max_history, 1U << 16U);
  s.scheduler.unmeasured_model = c.instance.step_time;
  s.scheduler.is_measured = !c.instance.profile.empty();
  auto& router = s.router.core;
  router.classes = c.slo.classes;
  router.default_class = c.slo.default_class;
  router.max_context = model.max_context;
  router.eos_tokens = model.eos;
  if (c.instance.prefix_cache) {
    std::random_device random;
    const auto word = [&] { return std::uint64_t{random()} << 32U | random(); };
    router.prefix_key = hash_key{word(), word()};
  }
  router.max_in_flight = c.router.max_in_flight;
  router.max_attempts = c.router.max_attempts;
  router.max_history = c.router.max_history;
  router.request_timeout = c.router.request_timeout;
  router.stage_timeout = c.router.stage_timeout;
  s.scaler.instance = instance_options_of(c, steps);
  s.scaler.core.expect_nodes = c.membership.expect_nodes;
  s.scaler.core.start_deadline = c.membership.start_deadline;
  s.scaler.core.policy = c.scaling.policy;
  s.scaler.core.dry_run = c.scaling.dry_run;
  s.scaler.core.min_instances = c.scaling.min_instances;
  s.scaler.core.max_instances = c.scaling.max_instances;
  s.scaler.core.lead_time = c.scaling.lead_time;
  s.scaler.core.hand_hold = c.scaling.hand_hold;
  for (const auto& entry : c.fleet.empty() ? config::default_fleet(c.mode) : c.fleet)
    s.scaler.core.fleet.push_back({entry.role, entry.count});
  s.weights.core.across_hosts = c.weights.across_hosts;
  s.cluster.core.heartbeat_interval = c.membership.heartbeat_interval;
  s.cluster.core.suspect_after = c.membership.suspect_after;
  s.cluster.core.lost_after = c.membership.lost_after;
  s.cluster.model = std::filesystem::path{s.scaler.instance.model_dir}.filename().string();
  s.cluster.listen_address = cli::to_string(cli::endpoint{c.listen.host, c.listen.port});
  s.cluster.unix_ms = unix_ms;
  return s;
}

/// "hyperflexis.margin=3,hyperflexis.fill=0.7"
result<std::map<std::string, double>> knobs_of(std::string_view key, std::string_view text) {
  std::map<std::string, double> knobs;
  for (auto rest = text; !rest.empty();) {
    const auto word = rest.substr(0, rest.find(','));
    rest.remove_prefix(std::min(rest.size(), word.size() + 1));
    const auto equals = std::min(word.find('='), word.size());
    double value = 0;
    const char* end_of_word = word.data() + word.size();
    const auto [end, fault] = std::from_chars(word.data() + std::min(equals + 1, word.size()), end_of_word, value);
    if (fault != std::errc{} || end != end_of_word)
      return fail(errc::reject, "{}: expected NAME=NUMBER,..., got \"{}\"", key, word);
    knobs[std::string(word.substr(0, equals))] = value;
  }
  return knobs;
}

} // namespace

wire::instance_options instance_options_of(const config::cluster_config& c, step_policy steps) {
  wire::instance_options o;
  o.model_dir = std::filesystem::absolute(c.model).lexically_normal().string();
  o.compute = gpu::name_of(c.instance.compute);
  o.threads = c.instance.threads;
  o.isa = c.instance.isa;
  o.block_size = c.instance.block_size;
  o.kv_blocks = c.instance.kv_blocks;
  o.kv_memory_bytes = std::uint64_t{c.instance.kv_memory_mib} << 20U;
  o.max_batched_tokens = c.instance.max_batched_tokens;
  o.max_sequences = c.instance.max_sequences;
  o.max_waiting = c.instance.max_waiting;
  o.steps = steps;
  scheduler::options policy;
  policy.policy = c.scheduler.policy;
  o.prefill_weight = scheduler::prefill_weight_of(policy);
  o.safety = c.scheduler.safety;
  o.step_time = c.instance.step_time;
  o.prefix_cache = c.instance.prefix_cache;
  return o;
}

result<running_head> start_head(
    caf::actor_system& system, const config::cluster_config& config, const wire::scaler_actor& other_scaler) {
  auto model = gpu::load_model_config(config.model);
  if (!model) return pass(model.error());
  auto tokenizer = gpu::tokenizer::load(config.model);
  if (!tokenizer) return pass(tokenizer.error());
  auto known = scheduler::policies();
  auto policy =
      std::find_if(known.begin(), known.end(), [&](const auto& p) { return p.name == config.scheduler.policy; });
  auto steps = policy != known.end() ? policy->steps : step_policy::fixed_budget;
  auto settings = settings_of(config, *model, steps);
  auto scaling_knobs = knobs_of("scaling.knobs", config.scaling.knobs);
  if (!scaling_knobs) return pass(scaling_knobs.error());
  settings.scaler.core.knobs = std::move(*scaling_knobs);
  auto knobs = knobs_of("scheduler.knobs", config.scheduler.knobs);
  if (!knobs) return pass(knobs.error());
  settings.scheduler.knobs = std::move(*knobs);
  settings.scaler.instance.prefill_weight = scheduler::prefill_weight_of(settings.scheduler);
  settings.other_scaler = other_scaler;
  settings.router.tokenizer = *tokenizer;
  settings.router.chat = gpu::chat_template::recognize(gpu::chat_template_of_model(config.model));
  auto head = cluster::spawn_head(system, std::move(settings));
  if (!head) return pass(head.error());
  auto port = system.middleman().publish(head->cluster, config.listen.port, config.listen.host.c_str(), true);
  if (!port) {
    cluster::stop_head(*head);
    return fail(errc::retry,
        "cannot listen on {}:{} ({}): is another head running there? Stop it, or give this one another port with "
        "--port",
        config.listen.host, config.listen.port, system.render(port.error()));
  }
  return running_head{*head, *port};
}

} // namespace hflex::runtime
