// The contents of a weight region: where each tensor lies and how a reader gets at it. weights.cpp writes and checks
// regions, llama.cpp reads them. The layout is a pure function of the configuration: a region whose table says anything
// else is refused, so that a reader needs no bounds checks of its own.
//
//   region_header | region_entry[entry_count] | hash128[chunks] | pad to 4096 | tensor | pad to 64 | tensor | ...
//   '-------------------------- head ---------------------------'-- chunk 0 --'-- chunk 1 --'-- ...
//
// What follows the head is cut into chunks of 4 MiB, each with a checksum in the head, and the digest is over the head:
// who knows the digest can tell a right head from a wrong one, and then each chunk from whomever it comes.
#pragma once
#include "actors/common/result.hpp"
#include "gpu/kernels/kernels.hpp"
#include "gpu/model/model_config.hpp"
#include "gpu/model/tensor_kind.hpp"
#include "gpu/weights.hpp"
#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace hflex::gpu {

/// Where one tensor lies. `rows` and `columns` are N and K of matrices, 1 and the true width of vectors, except that a
/// bias has as many rows of one column as its matrix.
struct tensor_place {
  tensor_kind kind{};
  std::uint32_t layer{};
  std::uint32_t rows{};
  std::uint32_t columns{};
  std::uint64_t offset{};
  std::uint64_t bytes{};
  friend bool operator==(const tensor_place&, const tensor_place&) = default;
};

inline constexpr std::uint64_t weight_chunk_bytes = 4U << 20U;

struct region_layout {
  std::vector<tensor_place> tensors; ///< in file order
  std::uint64_t head_bytes{};        ///< before the first tensor
  std::uint64_t bytes{};             ///< of the whole region
  std::uint32_t chunks() const {
    return static_cast<std::uint32_t>((bytes - head_bytes + weight_chunk_bytes - 1) / weight_chunk_bytes);
  }
  std::uint64_t chunk_offset(std::uint32_t chunk) const { return head_bytes + chunk * weight_chunk_bytes; }
  std::uint64_t chunk_size(std::uint32_t chunk) const { // the last one may be short
    return std::min(weight_chunk_bytes, bytes - chunk_offset(chunk));
  }
};

/// errc::reject when this engine cannot run the model (architecture, head_dim, sizes beyond what it indexes).
result<region_layout> layout_region(const model_config& config);

inline constexpr std::array<char, 8> region_magic{'H', 'F', 'L', 'E', 'X', 'W', 'T', '\0'};
inline constexpr std::uint32_t region_version = 3;
inline constexpr std::size_t max_eos_tokens = 16;

struct hash128 {
  std::uint64_t low{};
  std::uint64_t high{};
  friend bool operator==(const hash128&, const hash128&) = default;
};

/// model_config with a fixed size.
struct region_config {
  std::uint32_t hidden{}, intermediate{}, layers{}, heads{}, kv_heads{}, head_dim{}, vocab{}, max_context{};
  float rms_norm_eps{}, rope_theta{};
  std::uint32_t tie_embeddings{}; ///< 0 or 1
  std::int32_t bos{};
  std::uint32_t architecture{}; ///< index in known_architectures()
  std::uint32_t qkv_bias{};     ///< 0 or 1
  std::uint32_t qk_norm{};      ///< 0 or 1
  std::uint32_t rope_type{};    ///< rope_scaling::method
  float rope_factor{}, rope_low_freq_factor{}, rope_high_freq_factor{};
  std::uint32_t rope_original_context{};
  std::uint32_t eos_count{};
  std::array<std::int32_t, max_eos_tokens> eos{};
};

struct region_entry {
  std::uint32_t kind{}, layer{}, rows{}, columns{};
  std::uint64_t offset{}, bytes{};
};

struct region_header {
  std::array<char, 8> magic{};
  std::uint32_t version{};
  std::uint32_t entry_count{};
  std::uint64_t region_bytes{};
  region_config config;
  std::array<char, 32> digest{}; ///< hex of digest_of(config, entries, sums)
};
static_assert(sizeof(region_config) == 37 * 4 && sizeof(region_entry) == 32 && sizeof(region_header) == 208);

/// errc::reject when the configuration does not fit (too many end tokens).
result<region_config> to_region_config(const model_config& config);
/// errc::reject for values that no checkpoint could have had (they come from another process).
result<model_config> to_model_config(const region_config& config);
/// Identity of the content: over the configuration, every tensor's place and every chunk's checksum.
std::array<char, 32> digest_of(
    const region_config& config, std::span<const region_entry> entries, std::span<const hash128> sums);
hash128 checksum_of(std::span<const std::byte> bytes);

/// Typed views into a region, which must outlive them.
class packed_model {
public:
  struct layer {
    const float* attn_norm{};
    packed_matrix qkv;
    packed_matrix o;
    const float* mlp_norm{};
    packed_matrix gate_up; ///< n is 2 * padded_width(intermediate); up begins in the middle
    packed_matrix down;
    const float* qkv_bias{}; ///< padded with zeros; null: none
    const float* q_norm{};   ///< null: none
    const float* k_norm{};
  };

  /// `region` comes from load_weights or map_weights, which have checked it.
  explicit packed_model(const weight_region& region);
  const model_config& config() const { return config_; }
  const std::vector<layer>& layers() const { return layers_; }
  const float* final_norm() const { return final_norm_; }
  const packed_matrix& head() const { return head_; }
  /// The token's embedding, widened to f32; writes `hidden` values. 0 <= token < vocab.
  void embed(token_id token, float* out) const;

private:
  model_config config_;
  std::vector<layer> layers_;
  const float* final_norm_{};
  packed_matrix head_;
  const std::uint16_t* embedding_{}; ///< null when tied: rows are gathered from head_
};

} // namespace hflex::gpu
