// The device interface on a CUDA device, against the CPU's: tokens, keys and values, hand-over both ways, faults.
#include "gpu/cuda_device.hpp"
#include "gpu/kernels/bf16.hpp"
#include "tests/support/process.hpp"
#include "tests/unit/gpu/engine_fixture.hpp"
#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <future>
#include <mutex>
#include <unistd.h>

namespace hflex::test {
namespace {

using namespace hflex::gpu;

/// Null, after saying why, on a machine without a usable device.
std::shared_ptr<cuda_backend> cuda_or_skip() {
  static const auto backend = cuda_backend::load(HFLEX_CUDA_PLUGIN);
  if (backend) return *backend;
  WARN(backend.error().message); // "no CUDA device: ..."
  return nullptr;
}

std::shared_ptr<device_context> on_cuda(cuda_backend& cuda, const host_context_options& options) {
  auto made = cuda.make_context(0, demo_weights(), options);
  if (!made) FAIL(made.error().message);
  return *made;
}

std::shared_ptr<device_context> on_cpu(const host_context_options& options) {
  auto made = make_host_context(demo_weights(), options);
  if (!made) FAIL(made.error().message);
  return *made;
}

step_result run(device_context& context, std::vector<step_item> items) {
  step_plan plan;
  plan.id = 5;
  plan.items = std::move(items);
  std::promise<step_result> done;
  context.submit(std::move(plan), [&](step_result r) { done.set_value(std::move(r)); });
  return done.get_future().get();
}

tokens sampled_by(device_context& context, const std::vector<step_item>& items) {
  const auto out = run(context, items);
  if (!out.status) FAIL(out.status.error().message);
  CHECK(out.elapsed > duration::zero());
  return out.sampled;
}

tokens prompt_of(std::uint32_t length, std::uint32_t seed) {
  tokens out;
  for (std::uint32_t i = 0; i < length; ++i) out.push_back(static_cast<token_id>((seed * 977 + i * 131) % 2048));
  return out;
}

tokens decode(device_context& context, token_id last, std::uint32_t position, std::size_t count,
    const std::vector<block_index>& table) {
  tokens out;
  while (out.size() < count) {
    last = sampled_by(context, {item_of({last}, position++, table)})[0];
    out.push_back(last);
  }
  return out;
}

/// All keys and values of one layer as bytes.
std::vector<std::byte> kv_of(
    const device_context& context, std::uint32_t layer, const std::vector<block_index>& table, std::uint32_t count) {
  std::vector<std::byte> rows(count * context.kv().token_layer_bytes());
  const auto read = context.read_kv(layer, table, 0, count, rows);
  if (!read) FAIL(read.error().message);
  return rows;
}

std::vector<float> as_floats(const std::vector<std::byte>& rows, compute_type element) {
  std::vector<float> out(rows.size() / bytes_of(element));
  for (std::size_t i = 0; i < out.size(); ++i) {
    if (element == compute_type::f32) {
      std::memcpy(&out[i], rows.data() + i * 4, 4);
    } else {
      std::uint16_t bits = 0;
      std::memcpy(&bits, rows.data() + i * 2, 2);
      out[i] = element == compute_type::f16 ? f16_to_f32(bits) : bf16_to_f32(bits);
    }
  }
  return out;
}

} // namespace

TEST_CASE("the CUDA plug-in loads, and offers devices or says that there is none") {
  const auto found = find_cuda_devices(HFLEX_CUDA_PLUGIN);
  if (found) {
    CHECK(!found->devices.empty());
    CHECK(found->devices[0].isa.rfind("sm_", 0) == 0);
  } else {
    CHECK(found.error().code == errc::reject);
    CHECK(found.error().message.rfind("no CUDA device", 0) == 0);
  }
}

TEST_CASE("a CUDA device gives the CPU's greedy tokens in f32, alone, in batches and from captured graphs") {
  const auto cuda = cuda_or_skip();
  if (!cuda) return;
  const auto options = engine_options(compute_type::f32);
  const auto device = on_cuda(*cuda, options);
  const auto cpu = on_cpu(options);
  std::vector<step_item> items;
  for (std::uint32_t i = 0; i < 5; ++i) items.push_back(item_of(prompt_of(1 + i * 19, i), 0, block_range(8 * i, 8)));
  for (std::uint32_t step = 0; step < 12; ++step) { // from the third batch of five on, a graph
    const auto expected = sampled_by(*cpu, items);
    REQUIRE(sampled_by(*device, items) == expected);
    for (std::size_t i = 0; i < items.size(); ++i) {
      items[i].position += static_cast<std::uint32_t>(items[i].tokens.size());
      items[i].tokens = {expected[i]};
      items[i].output_index = step + 1;
    }
  }
}

TEST_CASE("sequences that share a prefix may have many times more block table entries than the pool has blocks") {
  const auto cuda = cuda_or_skip();
  if (!cuda) return;
  auto options = engine_options(compute_type::f32);
  options.kv_blocks = 80;
  options.max_batched_tokens = 330;
  const auto device = on_cuda(*cuda, options);
  const auto cpu = on_cpu(options);
  const auto prefix = item_of(prompt_of(320, 8), 0, block_range(0, 20));
  CHECK(sampled_by(*device, {prefix}) == sampled_by(*cpu, {prefix}));
  for (const std::uint32_t batch : {4U, 60U, 4U}) { // 1,260 entries; the graphs of before must not see the old ones
    std::vector<step_item> items;
    for (std::uint32_t i = 0; i < batch; ++i) {
      auto table = block_range(0, 20);
      table.push_back(20 + i);
      items.push_back(item_of({static_cast<token_id>(i * 30)}, 320, table, 1));
    }
    for (int i = 0; i < 3; ++i) CHECK(sampled_by(*device, items) == sampled_by(*cpu, items));
  }
}

TEST_CASE("a CUDA device runs models with biases and with norms of heads as the CPU does") {
  const auto cuda = cuda_or_skip();
  if (!cuda) return;
  for (const auto* family : {"qwen2", "qwen3"}) {
    INFO(family);
    const auto weights = load_weights(HFLEX_SOURCE_DIR "/tests/unit/gpu/golden/" + std::string(family), {});
    REQUIRE(weights);
    const auto options = engine_options(compute_type::f32);
    const auto device = cuda->make_context(0, *weights, options);
    const auto cpu = make_host_context(*weights, options);
    REQUIRE(device);
    REQUIRE(cpu);
    const auto table = block_range(3, 4);
    auto item = item_of({2, 77, 200, 9, 31}, 0, table);
    for (std::uint32_t step = 0; step < 12; ++step) {
      const auto expected = sampled_by(**cpu, {item});
      REQUIRE(sampled_by(**device, {item}) == expected);
      item = item_of({expected[0]}, 5 + step, table, step + 1);
    }
  }
}

TEST_CASE("a CUDA device draws the CPU's tokens from the same seeds in f32") {
  const auto cuda = cuda_or_skip();
  if (!cuda) return;
  const auto options = engine_options(compute_type::f32);
  const auto device = on_cuda(*cuda, options);
  const auto cpu = on_cpu(options);
  std::vector<step_item> items;
  for (std::uint32_t i = 0; i < 40; ++i) {
    items.push_back(item_of(prompt_of(3, i), 0, {i}));
    items.back().sampling = {0.5F + 0.05F * static_cast<float>(i), i % 2 == 0 ? 1.0F : 0.9F, i % 3 * 20, i};
    items.back().output_index = i * 7;
  }
  CHECK(sampled_by(*device, items) == sampled_by(*cpu, items));
}

TEST_CASE("keys and values on a CUDA device are the CPU's, prompt in chunks, in every compute type") {
  const auto cuda = cuda_or_skip();
  if (!cuda) return;
  for (const auto compute : {compute_type::f32, compute_type::bf16, compute_type::f16}) {
    INFO(name_of(compute));
    const auto device = on_cuda(*cuda, engine_options(compute));
    // The CPU has no f16: its reference is f32.
    const auto cpu = on_cpu(engine_options(compute == compute_type::bf16 ? compute : compute_type::f32));
    const auto prompt = prompt_of(150, 3);
    const std::vector<block_index> table{7, 200, 3, 1, 90, 6, 5, 0, 14, 33};
    const auto first = item_of(tokens(prompt.begin(), prompt.begin() + 83), 0, table);
    const auto second = item_of(tokens(prompt.begin() + 83, prompt.end()), 83, table);
    for (auto* context : {device.get(), cpu.get()}) {
      sampled_by(*context, {first});
      sampled_by(*context, {second});
    }
    for (std::uint32_t layer = 0; layer < device->kv().layers; ++layer)
      CHECK(relative_difference(as_floats(kv_of(*device, layer, table, 150), device->kv().element),
                as_floats(kv_of(*cpu, layer, table, 150), cpu->kv().element)) < (compute == compute_type::f32 ? 1e-3
                                                                                    : compute == compute_type::f16
                                                                                        ? 0.02
                                                                                        : 0.05));
  }
}

TEST_CASE("a sequence goes on with the same tokens when its KV moves between CPU and CUDA") {
  const auto cuda = cuda_or_skip();
  if (!cuda) return;
  auto options = engine_options(compute_type::f32);
  const auto cpu = on_cpu(options);
  options.block_size = 7;
  const auto device = on_cuda(*cuda, options);
  REQUIRE(cpu->kv().compatible(device->kv()));
  const std::vector<block_index> on_host{9, 3, 200};
  const std::vector<block_index> on_device{50, 2, 31, 7, 0, 1};
  const auto prompt = prompt_of(15, 4);
  for (const bool to_device : {true, false}) {
    auto& source = to_device ? *cpu : *device;
    auto& sink = to_device ? *device : *cpu;
    const auto& from = to_device ? on_host : on_device;
    const auto& into = to_device ? on_device : on_host;
    const auto first = sampled_by(source, {item_of(prompt, 0, from)})[0];
    for (std::uint32_t layer = 0; layer < source.kv().layers; ++layer) {
      const auto rows = kv_of(source, layer, from, 15);
      REQUIRE(sink.write_kv(layer, into, 0, 15, rows).has_value());
      CHECK(kv_of(sink, layer, into, 15) == rows);
    }
    CHECK(decode(sink, first, 15, 15, into) == decode(source, first, 15, 15, from));
  }
}

TEST_CASE("a CUDA device reports each layer once and in order, before the step ends") {
  const auto cuda = cuda_or_skip();
  if (!cuda) return;
  const auto device = on_cuda(*cuda, engine_options(compute_type::bf16));
  step_plan plan;
  plan.items = {item_of(prompt_of(20, 5), 0, {0, 1}), item_of(prompt_of(2, 6), 0, {2})};
  plan.items[0].tag = 11;
  plan.items[0].wants_layers = true;
  std::vector<std::uint32_t> layers;
  plan.on_layer = [&](std::uint64_t tag, std::uint32_t layer) {
    CHECK(tag == 11);
    layers.push_back(layer);
  };
  std::promise<std::size_t> seen;
  device->submit(std::move(plan), [&](const step_result& r) {
    CHECK(r.status.has_value());
    seen.set_value(layers.size());
  });
  CHECK(seen.get_future().get() == device->kv().layers);
  CHECK(layers == block_range(0, device->kv().layers)); // counted up
}

TEST_CASE("a CUDA device refuses bad plans and computes the next one") {
  const auto cuda = cuda_or_skip();
  if (!cuda) return;
  const auto device = on_cuda(*cuda, engine_options(compute_type::bf16));
  for (const auto& bad : {item_of({5000}, 0, {0}), item_of({1}, 16, {0}), item_of({1}, 0, {256}), item_of({}, 0, {0})})
    CHECK(run(*device, {bad}).status.error().code == errc::reject);
  CHECK(run(*device, {item_of({1}, 0, {0})}).status.has_value());
  CHECK(device->read_kv(6, block_range(0, 1), 0, 1, {}).error().code == errc::reject);
}

TEST_CASE("closing a CUDA context completes every step that was queued, once") {
  const auto cuda = cuda_or_skip();
  if (!cuda) return;
  auto device = on_cuda(*cuda, engine_options(compute_type::bf16));
  std::atomic<int> done{0};
  for (std::uint32_t i = 0; i < 6; ++i) {
    step_plan plan;
    plan.items = {item_of(prompt_of(100, i), 0, block_range(10 * i, 10))};
    device->submit(std::move(plan), [&](const step_result&) { ++done; });
  }
  device.reset();
  CHECK(done == 6);
}

TEST_CASE("contexts of one model share its weights on a CUDA device") {
  const auto cuda = cuda_or_skip();
  if (!cuda) return;
  auto options = engine_options(compute_type::bf16);
  const auto one = on_cuda(*cuda, options);
  const auto two = on_cuda(*cuda, options);
  const auto prompt = item_of(prompt_of(9, 1), 0, {0});
  CHECK(sampled_by(*one, {prompt}) == sampled_by(*two, {prompt}));
  options.isa = "avx2";
  CHECK(cuda->make_context(0, demo_weights(), options).error().code == errc::reject);
  CHECK(cuda->make_context(999, demo_weights(), options).error().code == errc::reject);
}

TEST_CASE("weights that are uploaded again come from page-locked memory, where device and kernel allow it") {
  const auto cuda = cuda_or_skip();
  if (!cuda) return;
  const auto region = load_weights(demo_model(), {}).value(); // others' contexts may hold the demo weights
  const auto options = engine_options(compute_type::f32);
  const auto other = cuda_backend::load(HFLEX_CUDA_PLUGIN); // which has none on its devices
  REQUIRE(other);
  const std::vector<step_item> prompt{item_of(prompt_of(40, 3), 0, block_range(0, 4))};
  const auto expected = sampled_by(*on_cpu(options), prompt);
  std::string from;
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds{10};
  while (from != "host memory, page-locked" && std::chrono::steady_clock::now() < end) {
    const auto made = (*other)->make_context(0, region, options);
    if (!made) FAIL(made.error().message);
    from = (*made)->weights_from();
    CHECK(sampled_by(**made, prompt) == expected);
  }
  if (from != "host memory, page-locked") WARN("no page was locked; the weights come from " + from);
}

TEST_CASE("weights that went to a CUDA device while they were read are those of the host") {
  const auto cuda = cuda_or_skip();
  if (!cuda) return;
  const auto other = cuda_backend::load(HFLEX_CUDA_PLUGIN); // which has none on its devices
  REQUIRE(other);
  const auto options = engine_options(compute_type::f32);
  const std::vector<step_item> prompt{item_of(prompt_of(40, 3), 0, block_range(0, 4))};
  const auto region = (*other)->load_weights(0, options.compute, demo_model(), {});
  REQUIRE(region.has_value());
  const auto made = (*other)->make_context(0, *region, options);
  if (!made) FAIL(made.error().message);
  CHECK((*made)->weights_from() == "host memory, while it was read");
  CHECK(sampled_by(**made, prompt) == sampled_by(*on_cpu(options), prompt));
}

TEST_CASE("where there are two CUDA devices, weights go from one to the other, directly and by NCCL") {
  const auto cuda = cuda_or_skip();
  if (!cuda) return;
  if (cuda->devices().size() < 2) {
    WARN("one CUDA device: nothing to copy to");
    return;
  }
  const auto options = engine_options(compute_type::f32);
  const std::vector<step_item> prompt{item_of(prompt_of(40, 3), 0, block_range(0, 4))};
  const auto expected = sampled_by(*on_cpu(options), prompt);
  const auto first = on_cuda(*cuda, options);
  const auto beside = cuda->make_context(1, demo_weights(), options);
  if (!beside) FAIL(beside.error().message);
  CHECK((*beside)->weights_from() == "another device");
  CHECK(sampled_by(**beside, prompt) == expected);

  const auto elsewhere = cuda_backend::load(HFLEX_CUDA_PLUGIN); // that knows of no weights: as on another host
  REQUIRE(elsewhere);
  device_sharing sharing;
  const auto ticket = cuda->give(demo_weights()->digest(), device_kind(compute_type::f32), 1);
  if (!ticket) FAIL(ticket.error().message);
  sharing.ticket = ticket->front();
  const auto far = (*elsewhere)->make_context(1, demo_weights(), options, sharing);
  if (!far) FAIL(far.error().message);
  CHECK((*far)->weights_from() == "another host's device");
  CHECK(sampled_by(**far, prompt) == expected);
}

// Another process, started by the test below: has the weights on the GPU and lives until it is killed.
TEST_CASE("a holder of weights", "[.holder]") {
  const auto cuda = cuda_or_skip();
  if (!cuda) return;
  auto made = transport::start({});
  REQUIRE(made);
  const std::shared_ptr<transport> t = std::move(*made);
  const auto context = cuda->make_context(0, demo_weights(), engine_options(compute_type::f32), sharing_over(t, {}));
  if (!context) FAIL(context.error().message);
  for (const auto& endpoint : t->endpoints())
    if (endpoint.rfind("shm:", 0) == 0) std::printf("holder at %s\n", endpoint.c_str());
  std::fflush(stdout);
  ::pause();
}

TEST_CASE("a CUDA device takes weights from another process' memory, and keeps them when that process dies") {
  if (!cuda_or_skip()) return;
  auto own = cuda_backend::load(HFLEX_CUDA_PLUGIN); // that has no weights yet
  REQUIRE(own);
  auto made = transport::start({});
  REQUIRE(made);
  const std::shared_ptr<transport> t = std::move(*made);
  process holder{{{"/proc/self/exe", "a holder of weights"}, {}, {}}};
  const std::string line = holder.wait_line(stream::out, "holder at ");
  const auto options = engine_options(compute_type::f32);
  const auto begun = std::chrono::steady_clock::now();
  const auto context =
      (*own)->make_context(0, demo_weights(), options, sharing_over(t, {{line.substr(std::strlen("holder at "))}, {}}));
  if (!context) FAIL(context.error().message);
  const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - begun;
  WARN("context on weights from " << (*context)->weights_from() << " in " << took.count() << " ms");
  CHECK((*context)->weights_from() == "this device");
  const auto cpu = on_cpu(options);
  const std::vector<step_item> prompt{item_of(prompt_of(40, 3), 0, block_range(0, 4))};
  CHECK(sampled_by(**context, prompt) == sampled_by(*cpu, prompt));
  holder.signal(SIGKILL);
  CHECK(holder.wait_exit() == -SIGKILL);
  CHECK(decode(**context, 7, 40, 8, block_range(0, 4)) == decode(*cpu, 7, 40, 8, block_range(0, 4)));
  // Who got them gives them on.
  auto third = cuda_backend::load(HFLEX_CUDA_PLUGIN);
  auto other = transport::start({});
  REQUIRE(third);
  REQUIRE(other);
  const std::shared_ptr<transport> from_third = std::move(*other);
  const auto again = (*third)->make_context(0, demo_weights(), options, sharing_over(from_third, {t->endpoints(), {}}));
  REQUIRE(again);
  CHECK((*again)->weights_from() == "this device");
}

} // namespace hflex::test
