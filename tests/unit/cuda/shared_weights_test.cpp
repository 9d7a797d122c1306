// What makes weights of one process usable in another: tensors at the same places of a slab, and a checksum over it.
#include "gpu/cuda/kernels/checksum.cuh"
#include "gpu/cuda/slab.cuh"
#include "tests/unit/cuda/emulated_device.hpp"
#include <numeric>

namespace hflex::shared_weights_test {

using namespace hflex::test;

namespace {

/// Unpacks into a slab.
template <class T>
class slab_memory : public emulated_stream {
public:
  explicit slab_memory(std::byte* base) : emulated_stream(thread_order::forward), cutter_(base) {}
  float* floats(std::size_t count) { return cutter_.take<float>(count); }
  T* elements(std::size_t count) { return cutter_.take<T>(count); }
  std::size_t used() const { return cutter_.used(); }

private:
  cuda::slab_cutter cutter_;
};

/// Where each tensor lies, counted from the slab's beginning.
template <class T>
std::vector<std::ptrdiff_t> places(const cuda::model_weights<T>& w, const std::byte* base) {
  std::vector<std::ptrdiff_t> out;
  const auto add = [&](const void* at) {
    out.push_back(at == nullptr ? -1 : static_cast<const std::byte*>(at) - base);
  };
  for (const void* at :
      {static_cast<const void*>(w.embedding), static_cast<const void*>(w.final_norm), static_cast<const void*>(w.head)})
    add(at);
  for (const auto& l : w.layers)
    for (const void* at : {static_cast<const void*>(l.attn_norm), static_cast<const void*>(l.qkv),
             static_cast<const void*>(l.o), static_cast<const void*>(l.mlp_norm), static_cast<const void*>(l.gate_up),
             static_cast<const void*>(l.down), static_cast<const void*>(l.qkv_bias)})
      add(at);
  return out;
}

std::uint64_t checksum(const buffer<std::uint64_t>& words, thread_order order) {
  buffer<std::uint64_t> sums(cuda::checksum_blocks, 99);
  emulate({{cuda::checksum_blocks, 1, 1}, cuda::checksum_threads,
              cuda::checksum_threads / cuda::warp_lanes * sizeof(std::uint64_t)},
      order, cuda::sum_words<std::uint64_t>, words.data(), std::uint64_t{words.size()}, sums.data());
  return std::accumulate(sums.begin(), sums.end(), std::uint64_t{0});
}

} // namespace

TEMPLATE_TEST_CASE("a copied slab has every tensor where the one that was unpacked has it", "", cuda::bf16, float) {
  const gpu::cuda_model_source source(*demo_weights());
  const std::size_t bytes = cuda::slab_bytes<TestType>(source.model);
  std::vector<cuda::quad> slab((bytes + 15) / 16 + cuda::slab_cutter::alignment / 16);
  auto* base = reinterpret_cast<std::byte*>(slab.data());
  slab_memory<TestType> memory(base);
  const auto unpacked = cuda::model_unpacker<TestType, slab_memory<TestType>>(source.model, memory).run();
  CHECK(memory.used() == bytes);
  auto copy = slab;
  auto* other_base = reinterpret_cast<std::byte*>(copy.data());
  auto blind = source.model;
  blind.region = nullptr; // nothing of it is read
  const auto placed = cuda::place_model<TestType>(blind, other_base);
  const auto at = places(placed, other_base);
  CHECK(at == places(unpacked, base));
  CHECK(at.front() >= 0);
  CHECK(*std::max_element(at.begin(), at.end()) < static_cast<std::ptrdiff_t>(bytes));
  CHECK(placed.layers.size() == source.model.layers);
  const std::size_t vocab_row = std::size_t{source.model.hidden} * 7;
  CHECK(cuda::to_float(placed.embedding[vocab_row]) == cuda::to_float(unpacked.embedding[vocab_row]));
}

TEST_CASE("the checksum of device memory sees every word and its place") {
  buffer<std::uint64_t> words(cuda::checksum_blocks * cuda::checksum_threads + 301);
  for (std::size_t i = 0; i < words.size(); ++i) words[i] = i % 5; // many alike
  std::uint64_t expected = 0;
  for (std::size_t i = 0; i < words.size(); ++i) expected += cuda::mixed_word(words[i], i);
  for (const auto order : both_orders) CHECK(checksum(words, order) == expected);
  for (const std::size_t at : {std::size_t{0}, std::size_t{77}, words.size() - 1}) {
    auto changed = words;
    changed[at] ^= std::uint64_t{1} << 63U;
    CHECK(checksum(changed, thread_order::forward) != expected);
  }
  std::swap(words[10], words[11]);
  CHECK(checksum(words, thread_order::forward) != expected);
  CHECK(checksum({}, thread_order::forward) == 0);
}

} // namespace hflex::shared_weights_test
