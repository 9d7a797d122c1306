// The CUDA side as the program sees it: a plug-in beside the binary, loaded when somebody asks. A build without CUDA, a
// machine without its libraries and one without a GPU all answer with an error that says which it is.
#pragma once
#include "actors/common/result.hpp"
#include "gpu/device.hpp"
#include <string>
#include <vector>

struct hflex_cuda_functions;

namespace hflex::gpu {

struct cuda_report {
  std::vector<device_info> devices; ///< never empty
  std::vector<std::string> uuids;   ///< of the devices, in hex
  int nccl_version{};               ///< 22809 = 2.28.9; 0 without NCCL
};

/// Where the plug-in lies: where the environment's HFLEX_CUDA_PLUGIN says, or beside the program.
std::string cuda_plugin_path();

/// Whether this machine has an NVIDIA driver at all: a cheap question to ask before the libraries are loaded.
bool cuda_driver_installed();

/// Loads the plug-in at `path` (once; it is never unloaded). errc::reject: there is none, or not of this version.
result<const hflex_cuda_functions*> load_cuda_plugin(const std::string& path);

/// Loads the plug-in and asks it. Blocks while CUDA starts. errc::reject: no plug-in, or no CUDA device.
result<cuda_report> find_cuda_devices(const std::string& path = cuda_plugin_path());

} // namespace hflex::gpu
