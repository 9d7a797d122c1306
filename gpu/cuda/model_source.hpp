// A weight region as the CUDA plug-in takes it. Called by gpu/cuda_device.cpp and the tests of the forward pass.
#pragma once
#include "gpu/cuda/plugin_abi.hpp"
#include "gpu/model/model_config.hpp"
#include "gpu/weights.hpp"
#include <vector>

namespace hflex::gpu {

/// Points into the region, which must outlive it.
struct cuda_model_source {
  model_config config;
  std::vector<hflex_cuda_tensor> tensors;
  std::vector<float> frequencies; ///< of rope.hpp
  hflex_cuda_model model{};

  explicit cuda_model_source(const weight_region& region);
  cuda_model_source(const cuda_model_source&) = delete;
  cuda_model_source& operator=(const cuda_model_source&) = delete;
};

} // namespace hflex::gpu
