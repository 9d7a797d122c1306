#include "tests/support/altered_region.hpp"
#include "tests/unit/cuda/emulated_device.hpp"

namespace hflex::forward_test {

using namespace hflex::test;

namespace {

tokens prompt_of(std::uint32_t length, std::uint32_t seed, std::uint32_t vocab = 2048) {
  tokens out;
  for (std::uint32_t i = 0; i < length; ++i) out.push_back(static_cast<token_id>((seed * 977 + i * 131) % vocab));
  return out;
}

std::shared_ptr<const gpu::weight_region> family_weights(const std::string& family) {
  const auto region = gpu::load_weights(HFLEX_SOURCE_DIR "/tests/unit/gpu/golden/" + family, {});
  REQUIRE(region.has_value());
  return *region;
}

/// Drives an emulated device and the CPU engine through the same steps.
template <class T>
struct twins {
  emulated_device<T> device;
  std::unique_ptr<gpu::llama> cpu;

  /// f16 is compared with the reference, f32: the CPU has none.
  explicit twins(const std::shared_ptr<const gpu::weight_region>& weights = demo_weights())
      : device(thread_order::forward, weights) {
    auto made = gpu::llama::make(
        weights, engine_options(std::is_same_v<T, cuda::bf16> ? gpu::compute_type::bf16 : gpu::compute_type::f32));
    REQUIRE(made.has_value());
    cpu = std::move(*made);
  }

  /// The tokens agree and the logits are close.
  tokens step(const std::vector<gpu::step_item>& items, double tolerance) {
    const auto found = device.run(items);
    const auto expected = run_step(*cpu, items);
    std::size_t row = 0;
    for (std::size_t i = 0; i < items.size(); ++i) {
      if (!items[i].sample) continue;
      CHECK(relative_difference(device.logits(row), expected.logits[i]) < tolerance);
      CHECK(found[row] == expected.sampled[i]);
      ++row;
    }
    return found;
  }
};

} // namespace

TEST_CASE("the CUDA forward pass gives the CPU engine's tokens and logits in f32, prompt and decode") {
  twins<float> both;
  const std::vector<gpu::block_index> first{5, 0, 9};
  const std::vector<gpu::block_index> second{3, 63};
  auto found = both.step({item_of(prompt_of(21, 1), 0, first), item_of(prompt_of(3, 2), 0, second)}, 2e-4);
  CHECK(!both.device.last_shape.padded);
  for (std::uint32_t i = 0; i < 3; ++i) {
    found = both.step({item_of({found[0]}, 21 + i, first, i + 1), item_of({found[1]}, 3 + i, second, i + 1)}, 2e-4);
    CHECK(both.device.last_shape.padded);
  }
}

TEMPLATE_TEST_CASE("a prompt in chunks on tensor cores beside a decoding request gives the CPU engine's tokens", "",
    cuda::bf16, cuda::f16) {
  twins<TestType> both;
  const std::vector<gpu::block_index> first{7, 2, 60, 1, 8};
  const std::vector<gpu::block_index> second{4};
  const auto prompt = prompt_of(70, 3);
  auto begin = item_of(tokens(prompt.begin(), prompt.begin() + 37), 0, first);
  begin.sample = false;
  auto found = both.step({begin, item_of(prompt_of(5, 4), 0, second)}, 0.05);
  CHECK(both.device.last_shape.tiles > 0);
  found = both.step(
      {item_of({found[0]}, 5, second, 1), item_of(tokens(prompt.begin() + 37, prompt.end()), 37, first)}, 0.05);
  CHECK(both.device.last_shape.attend_rows == 1);
}

TEMPLATE_TEST_CASE("models with biases and with norms of heads give the CPU engine's tokens and logits", "", cuda::bf16,
    cuda::f16, float) {
  const double tolerance = std::is_same_v<TestType, float> ? 2e-4 : 0.03;
  for (const auto* family : {"qwen2", "qwen3"}) {
    INFO(family);
    twins<TestType> both(family_weights(family));
    const std::vector<gpu::block_index> first{5, 0, 9, 11};
    const std::vector<gpu::block_index> second{3, 63};
    auto found =
        both.step({item_of(prompt_of(45, 1, 256), 0, first), item_of(prompt_of(3, 2, 256), 0, second)}, tolerance);
    CHECK((both.device.last_shape.tiles > 0) == (sizeof(TestType) == 2));
    both.step({item_of({found[0]}, 45, first, 1), item_of({found[1]}, 3, second, 1)}, tolerance);
  }
}

TEST_CASE("what grows beyond f16 fails its step, whether query, key or value, and is fine in bf16") {
  const auto weights = family_weights("qwen2");
  const auto config = gpu::packed_model(*weights).config();
  const std::size_t first_key = std::size_t{config.heads} * config.head_dim;
  const std::size_t first_value = first_key + std::size_t{config.kv_heads} * config.head_dim;
  for (const std::size_t at : {std::size_t{0}, first_key, first_key + config.head_dim / 2, first_value}) {
    INFO("bias " << at);
    altered_region region(*weights);
    region.put(gpu::tensor_kind::qkv_bias, 0, at, -7e4F);
    const auto altered = std::make_shared<altered_region>(region);
    emulated_device<cuda::f16> half(thread_order::forward, altered);
    emulated_device<cuda::bf16> brain(thread_order::forward, altered);
    CHECK(half.run({item_of(prompt_of(20, 1, 256), 0, {0, 1})})[0] == -1); // as tiles
    CHECK(half.run({item_of(prompt_of(1, 2, 256), 0, {2})})[0] == -1);     // as a single row
    CHECK(brain.run({item_of(prompt_of(20, 1, 256), 0, {0, 1})})[0] >= 0);
    CHECK(brain.run({item_of(prompt_of(1, 2, 256), 0, {2})})[0] >= 0);
  }
}

TEST_CASE("sampling parameters travel with their rows") {
  twins<float> both;
  auto one = item_of(prompt_of(4, 5), 0, {1});
  one.sampling = {0.9F, 0.95F, 50, 11};
  one.output_index = 7;
  auto two = item_of(prompt_of(6, 6), 0, {2});
  two.sample = false;
  auto three = item_of(prompt_of(2, 7), 0, {3});
  three.sampling = {1.3F, 1.0F, 0, 12};
  both.step({one, two, three}, 2e-4);
  CHECK(both.device.layers() == std::vector<std::uint32_t>{0, 1, 2, 3, 4, 5});
}

TEST_CASE("padding a batch to a bucket changes nobody's keys, values or tokens") {
  emulated_device<float> device;
  std::vector<gpu::step_item> items;
  for (std::uint32_t i = 0; i < 3; ++i) items.push_back(item_of({static_cast<token_id>(i * 100)}, 0, {i}));
  const auto together = device.run(items);
  CHECK(device.last_shape.rows == 4);
  emulated_device<float> other;
  for (std::uint32_t i = 0; i < 3; ++i) CHECK(other.run({items[i]})[0] == together[i]);
  // Positions 1 read what the padded step left at positions 0.
  for (std::uint32_t i = 0; i < 3; ++i) items[i] = item_of({together[i]}, 1, {i}, 1);
  const auto next = device.run(items);
  for (std::uint32_t i = 0; i < 3; ++i) CHECK(other.run({items[i]})[0] == next[i]);
}

TEST_CASE("a step of layers wanted is never padded, since a graph reports none") {
  emulated_device<float> device;
  device.run({item_of({1}, 0, {0})}, true);
  CHECK(!device.last_shape.padded);
}

TEST_CASE("a batch of 257 single tokens is more than any graph and runs as it is") {
  std::vector<hflex_cuda_item> items;
  const std::int32_t token = 1;
  const std::uint32_t block = 2;
  for (int i = 0; i < 257; ++i) items.push_back({&token, 1, 0, &block, 1, 1, 0.0F, 1.0F, 0, 0, 0});
  const cuda::layout_rules rules{16, 10, 4, true, 512};
  CHECK(!cuda::shape_of(rules, {items.data(), 257, 0, nullptr, nullptr}).padded);
  const auto shape = cuda::shape_of(rules, {items.data(), 250, 0, nullptr, nullptr});
  CHECK(shape.padded);
  CHECK(shape.rows == 256);
}

} // namespace hflex::forward_test
