// The CUDA side as the program sees it: a plug-in beside the binary, loaded when somebody asks. A build without CUDA, a
// machine without its libraries and one without a GPU all answer with an error that says which it is.
#pragma once
#include "actors/common/result.hpp"
#include "gpu/device.hpp"
#include <string>
#include <vector>

namespace hflex::gpu {

struct cuda_report {
  std::vector<device_info> devices; ///< never empty
  int nccl_version{};               ///< 22809 = 2.28.9; 0 without NCCL
};

/// Loads the plug-in (once) and asks it. Blocks while CUDA starts. errc::reject: no plug-in, or no CUDA device.
result<cuda_report> find_cuda_devices();
/// The same with a plug-in at `path`.
result<cuda_report> find_cuda_devices(const std::string& path);

} // namespace hflex::gpu
