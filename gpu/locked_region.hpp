// A weight region's memory as a device's copy engine takes it: page-locked, so that nothing is copied on its way. Made
// by cuda_weights.cpp after a region's first upload and kept by the region: as long as this process holds the weights,
// the next start of a device from them is as fast as the bus.
#pragma once
#include "gpu/cuda/plugin_abi.hpp"
#include "gpu/region_memory.hpp"

namespace hflex::gpu {

class locked_region {
public:
  /// Blocks, for a time in proportion to the region's size. errc::reject: this region, kernel or device cannot, or its
  /// memory is not to be locked; uploads go through pinned buffers then.
  static result<std::shared_ptr<const locked_region>> lock(
      const hflex_cuda_functions& cuda, const weight_region& region, std::uint32_t device);
  locked_region(const hflex_cuda_functions& cuda, region_mapping map, std::uint32_t device)
      : cuda_(cuda), map_(std::move(map)), device_(device) {}
  locked_region(const locked_region&) = delete;
  locked_region& operator=(const locked_region&) = delete;
  ~locked_region();
  const std::byte* data() const { return map_.bytes().data(); }

private:
  const hflex_cuda_functions& cuda_;
  region_mapping map_;
  std::uint32_t device_;
};

} // namespace hflex::gpu
