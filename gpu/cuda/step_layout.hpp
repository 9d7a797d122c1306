// Turns a step into the arrays that the kernels read: one row per token, one entry per attended row or tile, one
// request per sampled row. The arrays lie one behind the other at places that depend on the capacity only, so that one
// copy brings them to the device and a captured graph finds them again. Called by gpu/cuda/context.cuh and by the tests
// of the forward pass; plain C++, no CUDA.
#pragma once
#include "gpu/cuda/kernels/prefill_attention.cuh"
#include "gpu/cuda/kernels/sampling.cuh"
#include "gpu/cuda/plugin_abi.hpp"
#include <type_traits>

namespace hflex::cuda {

/// What of a model and its pool the layout depends on.
struct layout_rules {
  std::uint32_t block_size{};
  std::uint32_t blocks{};   ///< of the pool that anyone may use; the one behind them takes what padding rows write
  std::uint32_t group{};    ///< query heads per key/value head
  bool tensor_cores{};      ///< chunks go to prefill_attention; else every row is attended alone
  std::uint32_t max_rows{}; ///< tokens of a step
};

/// Batches of single tokens are padded up to one of these sizes: one captured graph for each.
constexpr std::uint32_t decode_bucket(std::uint32_t rows) {
  if (rows <= 8) return rows <= 2 ? rows : rows <= 4 ? 4 : 8;
  return rows <= 64 ? (rows + 15) / 16 * 16 : (rows + 63) / 64 * 64;
}
inline constexpr std::uint32_t largest_bucket = 256;

struct step_shape {
  std::uint32_t capacity{};    ///< rows that the arrays have room for; decides where they lie
  std::uint32_t rows{};        ///< tokens, padding included
  std::uint32_t attend_rows{}; ///< rows of decode_attention
  std::uint32_t tiles{};       ///< blocks of prefill_attention
  std::uint32_t samples{};     ///< rows that a token is drawn for, padding included
  std::uint32_t tables{};      ///< block table entries
  bool padded{};               ///< a batch of single tokens, all sampled, padded to a bucket: a graph fits it
};

/// The arrays of a step at some address, on the host or on the device.
struct step_arrays {
  sample_request* requests{};
  prefill_tile* tiles{};
  attend_row* attend_rows{};
  std::int32_t* tokens{};
  std::uint32_t* positions{};
  std::uint32_t* slots{};
  std::uint32_t* sample_rows{};
  std::uint32_t* tables{};

  /// `base` is 16-byte aligned, with bytes(capacity, ...) behind it.
  static step_arrays at(void* base, std::uint32_t capacity) {
    step_arrays a;
    auto* next = static_cast<unsigned char*>(base);
    const auto take = [&](auto*& array) {
      using element = std::remove_pointer_t<std::remove_reference_t<decltype(array)>>;
      array = reinterpret_cast<element*>(next);
      next += bytes_of<element>(capacity);
    };
    take(a.requests);
    take(a.tiles);
    take(a.attend_rows);
    take(a.tokens);
    take(a.positions);
    take(a.slots);
    take(a.sample_rows);
    a.tables = reinterpret_cast<std::uint32_t*>(next);
    return a;
  }
  /// Of the arrays with `tables` entries of block tables.
  static constexpr std::size_t bytes(std::uint32_t capacity, std::uint32_t tables) {
    return bytes_of<sample_request>(capacity) + bytes_of<prefill_tile>(capacity) + bytes_of<attend_row>(capacity) +
           4 * bytes_of<std::uint32_t>(capacity) + std::size_t{tables} * sizeof(std::uint32_t);
  }

private:
  template <class Element>
  static constexpr std::size_t bytes_of(std::uint32_t count) {
    return (count * sizeof(Element) + 15) / 16 * 16;
  }
};

/// What a step needs; nothing is written yet. Its tables may be any number: sequences share blocks.
step_shape shape_of(const layout_rules& rules, const hflex_cuda_step& step);

/// Fills the arrays of a step whose shape is `shape`.
void lay_out(const layout_rules& rules, const hflex_cuda_step& step, const step_shape& shape, const step_arrays& out);

} // namespace hflex::cuda
