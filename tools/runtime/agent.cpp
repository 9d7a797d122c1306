#include "tools/runtime/agent.hpp"
#include "gpu/cuda_device.hpp"
#include "gpu/host_device.hpp"
#include <charconv>
#include <future>
#include <optional>
#include <thread>

namespace hflex::runtime {

struct device_plan {
  node::device_slots slots;
  std::uint32_t threads{};           ///< of a CPU
  std::optional<std::uint32_t> cuda; ///< which CUDA device it is
};

struct machine_plan {
  std::vector<device_plan> devices;
  std::shared_ptr<gpu::cuda_backend> cuda; ///< where a device needs it
};

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

/// A short step: reads all weights once and wakes the threads, so that the first request does not pay. What it writes
/// to the KV pool is written again before anything reads it.
result<void> warm_up(gpu::device_context& context, std::uint32_t max_batched_tokens) {
  const auto enough = context.info().kind == "cpu" ? 16U : 512U; // a GPU also picks its kernels by size
  auto tokens =
      std::min({max_batched_tokens, context.max_context(), context.kv().blocks * context.kv().block_size, enough});
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

/// The number behind "cpu:" or "cuda:"; nothing when there is anything else.
std::optional<std::uint32_t> number_behind(std::string_view word, std::string_view prefix) {
  if (word.rfind(prefix, 0) != 0) return std::nullopt;
  word.remove_prefix(prefix.size());
  std::uint32_t number = 0;
  auto [end, fault] = std::from_chars(word.data(), word.data() + word.size(), number);
  if (word.empty() || fault != std::errc{} || end != word.data() + word.size()) return std::nullopt;
  return number;
}

void add_device(
    machine_plan& out, const gpu::device_info& info, std::uint32_t slots, std::optional<std::uint32_t> cuda) {
  out.devices.push_back({{info.kind, info.name + " (" + info.isa + ")", info.memory_bytes, slots}, info.threads, cuda});
}

result<void> add_cuda(machine_plan& out, const std::string& word, std::uint32_t slots) {
  const auto index = number_behind(word, "cuda:");
  if (!index) return fail(errc::reject, "device {}: expected cuda:I with I from 0", word);
  if (!out.cuda) {
    auto cuda = gpu::cuda_backend::load();
    if (!cuda) return fail(errc::reject, "device {}: {}; use cpu:N or auto", word, cuda.error().message);
    out.cuda = std::move(*cuda);
  }
  const auto& there = out.cuda->devices();
  if (*index >= there.size()) return fail(errc::reject, "device {}: this machine has {}", word, there.size());
  add_device(out, there[*index], slots, index);
  return {};
}

/// What a machine is best used for: its GPUs, or, where there is none that works, its CPU.
void add_best(machine_plan& out, std::uint32_t threads, std::uint32_t slots) {
  if (!out.cuda && gpu::cuda_driver_installed())
    if (auto cuda = gpu::cuda_backend::load()) out.cuda = std::move(*cuda);
  if (!out.cuda) return add_device(out, gpu::host_device_info(threads), slots, {});
  for (std::uint32_t i = 0; i < out.cuda->devices().size(); ++i) add_device(out, out.cuda->devices()[i], slots, i);
}

node::backend make_backend(
    std::shared_ptr<worker> loader, std::shared_ptr<gpu::transport> transport, machine_plan machine) {
  node::backend b;
  b.load_weights = [machine](std::uint32_t index, const wire::instance_options& o, const std::string& dir,
                       const gpu::progress_callback& progress) {
    const device_plan& device = machine.devices.at(index);
    if (!device.cuda) return gpu::load_weights(dir, progress);
    return machine.cuda->load_weights(*device.cuda, gpu::compute_named(o.compute).value(), dir, progress);
  };
  b.stamp_of = gpu::checkpoint_stamp;
  if (machine.cuda) {
    b.device_kind = [devices = machine.devices](std::uint32_t index, const wire::instance_options& o) {
      return devices.at(index).cuda ? gpu::device_kind(gpu::compute_named(o.compute).value()) : std::string{};
    };
    b.give_device_weights = [cuda = machine.cuda](const std::string& digest, const std::string& kind,
                                std::uint32_t receivers) { return cuda->give(digest, kind, receivers); };
  }
  b.make_context = [machine = std::move(machine), transport](std::uint32_t index,
                       std::shared_ptr<const gpu::weight_region> weights, const wire::instance_options& o,
                       const gpu::device_sources& sources) {
    const device_plan& device = machine.devices.at(index);
    gpu::host_context_options h;
    h.threads = o.threads > 0 ? o.threads : device.threads;
    h.compute = gpu::compute_named(o.compute).value(); // the message was checked
    h.block_size = o.block_size;
    h.kv_blocks = o.kv_blocks;
    h.kv_memory_bytes = o.kv_memory_bytes;
    h.max_batched_tokens = o.max_batched_tokens;
    if (!device.cuda) h.isa = o.isa; // instruction sets are the CPU's
    if (!device.cuda) return gpu::make_host_context(std::move(weights), h);
    return machine.cuda->make_context(*device.cuda, std::move(weights), h, gpu::sharing_over(transport, sources));
  };
  b.warm_up = [](gpu::device_context& context, const wire::instance_options& o) {
    return warm_up(context, o.max_batched_tokens);
  };
  b.run_blocking = [loader = std::weak_ptr<worker>{loader}](std::function<void()> job) {
    if (auto l = loader.lock()) l->post(std::move(job));
  };
  b.transport = std::move(transport);
  return b;
}

} // namespace

result<std::shared_ptr<const machine_plan>> find_devices(const agent_plan& plan) {
  machine_plan out;
  const auto slots = plan.max_instances_per_device;
  const auto threads = plan.threads > 0 ? plan.threads : std::max(1U, std::thread::hardware_concurrency());
  for (const auto& word : plan.agent.devices) {
    if (word == "auto") {
      add_best(out, threads, slots);
    } else if (word.rfind("cuda", 0) == 0) {
      if (auto ok = add_cuda(out, word, slots); !ok) return pass(ok.error());
    } else if (word == "cpu") {
      add_device(out, gpu::host_device_info(threads), slots, {});
    } else if (word.rfind("cpu:", 0) == 0) {
      const auto number = number_behind(word, "cpu:");
      if (!number || *number == 0 || *number > 4096)
        return fail(errc::reject, "device {}: expected cpu:N with N from 1 to 4096 compute threads", word);
      add_device(out, gpu::host_device_info(*number), slots, {});
    } else {
      return fail(errc::reject, "device {}: expected auto, cpu, cpu:N or cuda:I", word);
    }
  }
  if (out.devices.empty()) return fail(errc::reject, "an agent needs at least one device");
  return std::make_shared<const machine_plan>(std::move(out));
}

result<agent_parts> start_agent(caf::actor_system& system, const agent_plan& plan,
    const std::shared_ptr<const machine_plan>& devices, const wire::cluster_actor& head, const cli::endpoint& address) {
  gpu::transport_options to;
  to.listen_host = plan.agent.transport.listen_host;
  to.enable_shm = plan.agent.transport.shm;
  to.enable_tcp = plan.agent.transport.tcp;
  to.host_id = plan.agent.transport.host_id;
  auto transport = gpu::transport::start(to);
  if (!transport) return pass(transport.error());

  agent_parts parts;
  parts.loader = std::make_shared<worker>();
  parts.transport = std::move(*transport);
  node::shell_settings settings;
  settings.core.name = plan.agent.name;
  for (const auto& d : devices->devices) settings.core.devices.push_back(d.slots);
  settings.core.heartbeat_interval = plan.membership.heartbeat_interval;
  settings.core.start_deadline = plan.membership.start_deadline;
  settings.core.drain_deadline = plan.membership.drain_deadline;
  settings.core.seed = random_bits();
  settings.machine = make_backend(parts.loader, parts.transport, *devices);
  settings.head = head;
  settings.head_host = address.host;
  settings.head_port = address.port;
  settings.address = host_name();
  settings.host_id = host_id_of(*parts.transport);
  settings.from_neighbours = plan.weights.from_neighbours;
  settings.core.serve_while_loading = plan.weights.serve_while_loading;
  settings.fetch_deadline = plan.weights.fetch_deadline;
  settings.host_cache_bytes = std::uint64_t{plan.weights.host_cache_mib} << 20U;
  settings.giving.link_bytes_per_s = std::uint64_t{plan.weights.max_mib_per_s} << 20U;
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
