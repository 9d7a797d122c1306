// Picks the next token of each row from its logits, as gpu/kernels/sampler.cpp does: same candidates, same random
// number, same order among equals. Probabilities are summed as integers (units of 2^-39 of the best token's), so the
// sum does not depend on the order of threads; the CPU sums doubles, and the two differ only where the random number
// falls within a unit of the border between two tokens (less than 1e-9 a draw for a vocabulary of 128k).
//
// Everything but the argmax is one question, asked up to three times: which is the last token of the shortest prefix,
// in a given order, that counts (or weighs) more than a target? Answered by radix selection, 8 bits of the order a
// pass.
#pragma once
#include "gpu/cuda/kernels/lanes.cuh"
#include "gpu/kernels/bf16.hpp"
#include "gpu/kernels/random.hpp"
#include <cmath>

namespace hflex::cuda {

inline constexpr int sample_threads = 512;

struct sample_request {
  std::uint64_t seed{};
  std::uint32_t output_index{};
  std::uint32_t top_k{};
  float temperature{};
  float top_p{1.0F};
};

using count64 = unsigned long long; // what atomicAdd knows
static_assert(sizeof(count64) == 8);

/// What the threads of a block share.
struct sample_shared {
  count64 histogram[256];
  count64 groups[16]; ///< sums of 16 neighbours of the histogram; scratch of reductions
  count64 before;     ///< sum over the buckets ahead of the chosen one
  count64 inside;     ///< of the chosen one
  unsigned bucket;
};
static_assert(sample_threads / 32 <= 16);

/// Logits as integers of the same order; the two zeros are one.
HFLEX_DEVICE std::uint32_t ordered_bits(float value) {
  const auto bits = gpu::bits_of_f32(value + 0.0F);
  return (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
}
HFLEX_DEVICE float value_of(std::uint32_t ordered) {
  return gpu::f32_of_bits((ordered & 0x80000000U) != 0 ? ordered & 0x7fffffffU : ~ordered);
}

inline constexpr std::uint32_t id_bits = 24;
inline constexpr std::uint32_t id_mask =
    (1U << id_bits) - 1; ///< vocabularies are no larger (gpu/model/packed_model.cpp)

/// One row of logits and how its tokens are ranked: by logit and then id, or by id alone.
struct sample_row {
  const float* logits;
  std::uint32_t vocab;
  float maximum;
  float temperature;

  HFLEX_DEVICE count64 key(std::uint32_t id, bool by_id) const {
    const count64 low = id_mask - id;
    return by_id ? low : count64{ordered_bits(logits[id])} << id_bits | low;
  }
  HFLEX_DEVICE count64 weight(std::uint32_t id) const {
    const float shifted = (logits[id] - maximum) / temperature;
    if (!(shifted > -80.0F)) return 0;
    return static_cast<count64>(
        static_cast<double>(static_cast<float>(exp(static_cast<double>(shifted)))) * 0x1p39 + 0.5);
  }
};

template <class Combine>
HFLEX_DEVICE count64 block_reduce(count64 value, sample_shared& shared, const Combine& combine) {
  for (unsigned mask = warp_lanes / 2; mask > 0; mask /= 2) value = combine(value, shuffle_xor(value, mask));
  sync_threads(); // the last reader of `groups` is done
  if (thread_index() % warp_lanes == 0) shared.groups[thread_index() / warp_lanes] = value;
  sync_threads();
  for (unsigned i = 0; i < sample_threads / warp_lanes; ++i)
    value = i == 0 ? shared.groups[0] : combine(value, shared.groups[i]);
  return value;
}

struct selection {
  count64 key;
  count64 sum; ///< of the prefix, the selected token included
};

/// Walks the buckets from the highest down until the running sum exceeds `target`.
HFLEX_DEVICE void choose_bucket(sample_shared& shared, count64 before, count64 target) {
  if (thread_index() < 16) {
    count64 sum = 0;
    for (unsigned i = 0; i < 16; ++i) sum += shared.histogram[thread_index() * 16 + i];
    shared.groups[thread_index()] = sum;
  }
  sync_threads();
  if (thread_index() == 0) {
    unsigned group = 15;
    for (; group > 0 && before + shared.groups[group] <= target; --group) before += shared.groups[group];
    unsigned bucket = group * 16 + 15;
    for (; bucket > group * 16 && before + shared.histogram[bucket] <= target; --bucket)
      before += shared.histogram[bucket];
    shared.bucket = bucket;
    shared.before = before;
    shared.inside = shared.histogram[bucket];
  }
  sync_threads();
}

/// The last token of the shortest prefix of the tokens with key >= floor, highest key first, whose sum is more than
/// `target`; the sum of all of them is. Counts tokens, or adds their weights.
HFLEX_DEVICE selection select_prefix(
    const sample_row& row, bool by_id, bool weighted, count64 floor, count64 target, sample_shared& shared) {
  count64 prefix = 0; // of the key, down to the bits already known
  count64 before = 0;
  int shift = by_id ? static_cast<int>(id_bits) : static_cast<int>(id_bits) + 32;
  while (shift > 0) {
    shift -= 8;
    if (thread_index() < 256) shared.histogram[thread_index()] = 0;
    sync_threads();
    for (std::uint32_t id = thread_index(); id < row.vocab; id += sample_threads) {
      const count64 key = row.key(id, by_id);
      if (key < floor || key >> (shift + 8) != prefix) continue;
      const count64 amount = weighted ? row.weight(id) : 1;
      if (amount != 0) add_shared(&shared.histogram[key >> shift & 255U], amount);
    }
    sync_threads();
    choose_bucket(shared, before, target);
    before = shared.before;
    prefix = prefix << 8U | shared.bucket;
  }
  return {prefix, before + shared.inside};
}

HFLEX_DEVICE count64 weight_sum(const sample_row& row, count64 floor, sample_shared& shared) {
  count64 sum = 0;
  for (std::uint32_t id = thread_index(); id < row.vocab; id += sample_threads)
    if (row.key(id, false) >= floor) sum += row.weight(id);
  return block_reduce(sum, shared, [](count64 a, count64 b) { return a + b; });
}

HFLEX_DEVICE std::int32_t draw_token(const sample_row& row, const sample_request& request, sample_shared& shared) {
  const double u = gpu::uniform_draw(request.seed, request.output_index);
  const bool all = request.top_k == 0 && request.top_p >= 1.0F;
  count64 floor = 0;
  if (request.top_k != 0 && request.top_k < row.vocab)
    floor = select_prefix(row, false, false, 0, request.top_k - 1, shared).key;
  count64 kept = weight_sum(row, floor, shared);
  if (request.top_p < 1.0F) {
    const auto wanted = static_cast<count64>(ceil(static_cast<double>(request.top_p) * static_cast<double>(kept)));
    const selection cut = select_prefix(row, false, true, floor, wanted - 1, shared);
    floor = cut.key;
    kept = cut.sum;
  }
  auto target = static_cast<count64>(u * static_cast<double>(kept));
  if (target >= kept) target = kept - 1; // the product was rounded up
  const selection drawn = select_prefix(row, all, true, floor, target, shared);
  return static_cast<std::int32_t>(id_mask - static_cast<std::uint32_t>(drawn.key & id_mask));
}

/// tokens[row] from logits[row][vocab], or -1 when a logit is NaN or the largest is not finite. Grid: rows; shared
/// memory: sample_shared.
template <class Token>
HFLEX_GLOBAL(sample_threads)
sample(const float* logits, std::uint32_t stride, std::uint32_t vocab, const sample_request* requests, Token* tokens) {
  auto& shared = *reinterpret_cast<sample_shared*>(shared_bytes());
  const std::uint32_t at = block_position().x;
  const sample_request request = requests[at];
  sample_row row{logits + std::size_t{at} * stride, vocab, 0.0F, request.temperature};
  count64 best = 0;
  count64 bad = 0;
  for (std::uint32_t id = thread_index(); id < vocab; id += sample_threads) {
    if (!(row.logits[id] == row.logits[id])) bad = 1; // NaN
    const count64 key = row.key(id, false);
    best = key > best ? key : best;
  }
  const auto larger = [](count64 a, count64 b) { return a > b ? a : b; };
  best = block_reduce(best, shared, larger);
  bad = block_reduce(bad, shared, larger);
  row.maximum = value_of(static_cast<std::uint32_t>(best >> id_bits));
  std::int32_t token = static_cast<std::int32_t>(id_mask - static_cast<std::uint32_t>(best & id_mask));
  if (bad != 0 || !(fabsf(row.maximum) < INFINITY))
    token = -1;
  else if (request.temperature != 0.0F && request.top_k != 1)
    token = draw_token(row, request, shared);
  if (thread_index() == 0) tokens[at] = token;
}

} // namespace hflex::cuda
