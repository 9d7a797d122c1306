#include "tools/runtime/agent.hpp"
#include "gpu/cuda_plugin.hpp"
#include "gpu/host_device.hpp"
#include <charconv>
#include <future>
#include <thread>

namespace hflex::runtime {
namespace {

/// "shm:<host id>:<socket>" names the host as the transport sees it; without shared memory nobody shares with us.
std::string host_id_of(const gpu::transport& transport) {
  for (const auto& endpoint : transport.endpoints()) {
    if (endpoint.rfind("shm:", 0) != 0) continue;
    auto end = endpoint.rfind(':');
    return endpoint.substr(4, end - 4);
  }
  return fmt::format("alone-{:016x}", random_bits());
}

/// One step over as much as a step takes: touches the work space and wakes the threads, so that the first request does
/// not pay. What it writes to the KV pool is written again before anything reads it.
result<void> warm_up(gpu::device_context& context, std::uint32_t max_batched_tokens) {
  auto tokens =
      std::min({max_batched_tokens, context.max_context(), context.kv().blocks * context.kv().block_size, 512U});
  gpu::step_plan plan;
  gpu::step_item item;
  item.tokens.assign(tokens, 0);
  item.sample = true;
  for (std::uint32_t b = 0; b * context.kv().block_size < tokens; ++b) item.block_table.push_back(b);
  plan.items.push_back(std::move(item));
  std::promise<result<void>> done;
  context.submit(std::move(plan), [&done](const gpu::step_result& r) { done.set_value(r.status); });
  return done.get_future().get();
}

struct device_plan {
  node::device_slots slots;
  std::uint32_t threads{};
};

result<std::vector<device_plan>> plan_devices(const agent_plan& plan) {
  std::vector<device_plan> devices;
  for (const auto& word : plan.agent.devices) {
    auto threads = plan.threads > 0 ? plan.threads : std::max(1U, std::thread::hardware_concurrency());
    if (word.rfind("cuda", 0) == 0) {
      auto found = gpu::find_cuda_devices();
      if (!found) return fail(errc::reject, "device {}: {}; use cpu:N or auto", word, found.error().message);
      return fail(errc::reject,
          "device {}: {} CUDA devices are there, but this version computes on CPUs only; use cpu:N or auto", word,
          found->devices.size());
    }
    if (word.rfind("cpu:", 0) == 0) {
      auto number = std::string_view{word}.substr(4);
      auto [end, fault] = std::from_chars(number.data(), number.data() + number.size(), threads);
      if (fault != std::errc{} || end != number.data() + number.size() || threads == 0 || threads > 4096)
        return fail(errc::reject, "device {}: expected cpu:N with N from 1 to 4096 compute threads", word);
    } else if (word != "auto" && word != "cpu") {
      return fail(errc::reject, "device {}: expected auto, cpu, cpu:N or cuda:I", word);
    }
    auto info = gpu::host_device_info(threads);
    devices.push_back(
        {{info.kind, info.name + " (" + info.isa + ")", info.memory_bytes, plan.max_instances_per_device}, threads});
  }
  if (devices.empty()) return fail(errc::reject, "an agent needs at least one device");
  return devices;
}

node::backend make_backend(
    std::shared_ptr<worker> loader, std::shared_ptr<gpu::transport> transport, std::vector<std::uint32_t> threads) {
  node::backend b;
  b.load_weights = gpu::load_weights;
  b.stamp_of = gpu::checkpoint_stamp;
  b.make_context = [threads = std::move(threads)](std::uint32_t index,
                       std::shared_ptr<const gpu::weight_region> weights, const wire::instance_options& o) {
    gpu::host_context_options h;
    h.threads = o.threads > 0 ? o.threads : threads.at(index);
    h.compute = o.compute == "f32" ? gpu::compute_type::f32 : gpu::compute_type::bf16;
    h.block_size = o.block_size;
    h.kv_blocks = o.kv_blocks;
    h.kv_memory_bytes = o.kv_memory_bytes;
    h.max_batched_tokens = o.max_batched_tokens;
    h.isa = o.isa;
    auto context = gpu::make_host_context(std::move(weights), h);
    if (context)
      if (auto warm = warm_up(**context, o.max_batched_tokens); !warm)
        return result<std::shared_ptr<gpu::device_context>>{pass(warm.error())};
    return context;
  };
  b.run_blocking = [loader = std::weak_ptr<worker>{loader}](std::function<void()> job) {
    if (auto l = loader.lock()) l->post(std::move(job));
  };
  b.transport = std::move(transport);
  return b;
}

} // namespace

result<agent_parts> start_agent(
    caf::actor_system& system, const agent_plan& plan, const wire::cluster_actor& head, const cli::endpoint& address) {
  auto devices = plan_devices(plan);
  if (!devices) return pass(devices.error());
  gpu::transport_options to;
  to.listen_host = plan.agent.transport.listen_host;
  to.enable_shm = plan.agent.transport.shm;
  to.enable_tcp = plan.agent.transport.tcp;
  auto transport = gpu::transport::start(to);
  if (!transport) return pass(transport.error());

  agent_parts parts;
  parts.loader = std::make_shared<worker>();
  parts.transport = std::move(*transport);
  node::shell_settings settings;
  settings.core.name = plan.agent.name;
  std::vector<std::uint32_t> threads;
  for (const auto& d : *devices) {
    settings.core.devices.push_back(d.slots);
    threads.push_back(d.threads);
  }
  settings.core.heartbeat_interval = plan.membership.heartbeat_interval;
  settings.core.start_deadline = plan.membership.start_deadline;
  settings.core.drain_deadline = plan.membership.drain_deadline;
  settings.core.seed = random_bits();
  settings.machine = make_backend(parts.loader, parts.transport, std::move(threads));
  settings.head = head;
  settings.head_host = address.host;
  settings.head_port = address.port;
  settings.address = host_name();
  settings.host_id = host_id_of(*parts.transport);
  settings.from_neighbours = plan.weights.from_neighbours;
  settings.fetch_deadline = plan.weights.fetch_deadline;
  settings.random = random_bits;
  parts.actor = system.spawn(node::node_shell, std::move(settings));
  return parts;
}

bool stop_agent(caf::actor_system& system, const agent_parts& parts, duration timeout) {
  caf::scoped_actor self{system};
  self->monitor(parts.actor);
  self->send(parts.actor, wire::msg<wire::schema::NodeLeave>{});
  auto ended = false;
  self->receive([&](caf::down_msg&) { ended = true; }, caf::after(timeout) >> [] {});
  return ended;
}

} // namespace hflex::runtime
