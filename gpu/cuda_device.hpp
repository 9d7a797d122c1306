// CUDA devices as device contexts: the program's side of the plug-in. No CUDA header is included here or in what it
// includes. The node agent makes one backend and asks it for contexts; it decides nothing about which device is used.
#pragma once
#include "gpu/cuda_plugin.hpp"
#include "gpu/cuda_weights.hpp"
#include "gpu/host_device.hpp"
#include "gpu/weights.hpp"
#include <memory>

namespace hflex::gpu {

class cuda_backend {
public:
  virtual ~cuda_backend() = default;
  /// Loads the plug-in at `path` and asks it for devices. Blocks while CUDA starts. errc::reject: no CUDA device.
  static result<std::shared_ptr<cuda_backend>> load(const std::string& path = cuda_plugin_path());

  /// Never empty; the index of a device is its CUDA ordinal.
  virtual const std::vector<device_info>& devices() const = 0;

  /// As gpu::load_weights, for a context on that device: the weights go there while they are read. Blocks.
  virtual result<std::shared_ptr<const weight_region>> load_weights(std::uint32_t device, compute_type compute,
      const std::string& model_dir, const progress_callback& progress, load_options options = {}) = 0;

  /// Of the options, `threads` and `isa` mean nothing here; `isa` must be empty. Weights are on a device once for each
  /// compute type, however many contexts run them. Unlike the CPU's, a step's results may depend in the last bits on
  /// what else is in the batch. In f16 a model with a weight beyond 65504 is refused, and a step in which a value grows
  /// beyond it fails: its logits are not finite. Brings the weights to the device, from another device rather than from
  /// `weights` where `sharing` knows of one: blocks, call it on a loader thread.
  /// errc::reject for impossible options or models, errc::fatal when the device refuses (no memory).
  virtual result<std::shared_ptr<device_context>> make_context(std::uint32_t device,
      std::shared_ptr<const weight_region> weights, const host_context_options& options,
      const device_sharing& sharing = {}) = 0;

  /// As cuda_weights::give. Blocks while weights load.
  virtual result<std::vector<std::vector<std::byte>>> give(
      const std::string& digest, const std::string& kind, std::uint32_t receivers) = 0;
};

} // namespace hflex::gpu
