// The head of a weight region: what lies where, and by which checksums every chunk is known. Written by whoever packs,
// checked by whoever takes a region, or its chunks one by one, from somebody else. Pure: bytes in, values out.
#pragma once
#include "gpu/model/packed_model.hpp"
#include <memory>
#include <string>

namespace hflex::gpu {

struct region_head {
  region_config config;
  region_layout layout;
  std::vector<hash128> sums; ///< one per chunk
  std::string digest;
};

/// Larger ones are refused before they are read: 4,096 layers and 32 TiB fit.
inline constexpr std::uint64_t max_head_bytes = 192U << 20U;

/// Reads and checks the head at the beginning of `bytes`: sizes, every tensor's place, the digest over all of it. From
/// then on each chunk can be told from a wrong one. errc::reject names what is wrong.
result<region_head> read_region_head(std::span<const std::byte> bytes);

/// Fills the first layout.head_bytes of `region` (zeroed before) and returns the digest.
std::string write_region_head(std::span<std::byte> region, const region_config& config, const region_layout& layout,
    std::span<const hash128> sums);

/// Checksums of a region's chunks while its bytes come in order.
class chunk_summer {
public:
  chunk_summer();
  chunk_summer(const chunk_summer&) = delete;
  chunk_summer& operator=(const chunk_summer&) = delete;
  ~chunk_summer();
  void add(std::span<const std::byte> bytes);
  void add_zeros(std::uint64_t count);
  std::uint64_t position() const { return position_; }
  /// Of all chunks; the last one may be short.
  std::vector<hash128> finish();

private:
  struct state;
  std::unique_ptr<state> state_;
  std::uint64_t position_{0};
  std::vector<hash128> sums_;
};

} // namespace hflex::gpu
