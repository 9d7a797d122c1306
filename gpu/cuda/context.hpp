// A context of the CUDA plug-in, whatever its element type: what plugin.cu calls. Implemented by context.cuh; one .cu
// file for each element type makes them.
#pragma once
#include "gpu/cuda/plugin_abi.hpp"
#include <cstddef>
#include <functional>
#include <memory>

namespace hflex::cuda {

struct device_weights;
class fault_box;

/// The functions of plugin_abi.hpp with the same names.
class device_context {
public:
  virtual ~device_context() = default;
  virtual std::uint64_t bytes() const = 0;
  virtual hflex_cuda_status launch(const hflex_cuda_step& step, hflex_cuda_fault& fault) = 0;
  virtual hflex_cuda_status poll(hflex_cuda_fault& fault) = 0;
  virtual hflex_cuda_status collect(std::int32_t* tokens, std::uint64_t& elapsed_ns, hflex_cuda_fault& fault) = 0;
  virtual hflex_cuda_status read_kv(
      std::uint32_t layer, const std::uint32_t* slots, std::uint32_t count, void* out, hflex_cuda_fault& fault) = 0;
  virtual hflex_cuda_status write_kv(std::uint32_t layer, const std::uint32_t* slots, std::uint32_t count,
      const void* in, hflex_cuda_fault& fault) = 0;
};

/// Weights as another process, or another device of this one, has them.
struct device_share {
  int fd{-1};
  std::uint64_t bytes{};
  std::uint64_t checksum{};
  bool same_device{}; ///< as the one they are wanted on
};

/// Fills a slab on the current device from elsewhere.
using receiver = std::function<void(std::byte* slab, std::size_t bytes)>;

/// One set for each element type; null, and words in `faults`, when it fails. The device is the current one.
struct context_maker {
  std::unique_ptr<device_weights> (*weights)(
      const hflex_cuda_model&, int device, hflex_cuda_element element, const hflex_cuda_upload& how, fault_box& faults);
  std::unique_ptr<device_weights> (*adopted)(
      const hflex_cuda_model&, int device, hflex_cuda_element element, const device_share& from, fault_box& faults);
  std::unique_ptr<device_weights> (*received)(const hflex_cuda_model&, int device, hflex_cuda_element element,
      const hflex_cuda_ticket& ticket, const receiver& receive, fault_box& faults);
  std::unique_ptr<device_context> (*context)(const device_weights&, const hflex_cuda_options&, fault_box& faults);
};
context_maker bf16_maker();
context_maker f16_maker();
context_maker f32_maker();

} // namespace hflex::cuda
