#include "gpu/cuda_plugin.hpp"
#include "gpu/cuda/plugin_abi.hpp"
#include <algorithm>
#include <dlfcn.h>
#include <filesystem>
#include <memory>

namespace hflex::gpu {
namespace {

constexpr int max_devices = 64;

template <class Function>
Function* symbol(void* library, const char* name) {
  return reinterpret_cast<Function*>(::dlsym(library, name));
}

} // namespace

result<cuda_report> find_cuda_devices(const std::string& path) {
  if (!std::filesystem::exists(path)) return fail(errc::reject, "no CUDA device: this hflex was built without CUDA");
  void* library = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL); // never unloaded: CUDA does not like to be
  if (library == nullptr) return fail(errc::reject, "no CUDA device: the CUDA plug-in does not load ({})", ::dlerror());
  auto* version = symbol<hflex_cuda_abi_version_fn>(library, "hflex_cuda_abi_version");
  auto* devices = symbol<hflex_cuda_devices_fn>(library, "hflex_cuda_devices");
  auto* nccl = symbol<hflex_cuda_nccl_version_fn>(library, "hflex_cuda_nccl_version");
  if (version == nullptr || devices == nullptr || nccl == nullptr || version() != hflex_cuda_abi)
    return fail(errc::reject, "no CUDA device: {} is of another version of hflex", path);
  std::vector<hflex_cuda_device> found(max_devices);
  char fault[256] = {};
  int count = devices(found.data(), max_devices, fault, sizeof(fault));
  if (count <= 0) return fail(errc::reject, "{}", fault[0] != '\0' ? fault : "no CUDA device");
  cuda_report report;
  report.nccl_version = nccl();
  for (int i = 0; i < std::min(count, max_devices); ++i) {
    const auto& d = found[static_cast<std::size_t>(i)];
    report.devices.push_back(
        {"cuda", d.name, fmt::format("sm_{}{}", d.compute_major, d.compute_minor), d.memory_bytes, 0});
  }
  return report;
}

result<cuda_report> find_cuda_devices() {
  std::error_code fault;
  auto program = std::filesystem::read_symlink("/proc/self/exe", fault);
  return find_cuda_devices((program.parent_path() / "hflex_cuda.so").string());
}

} // namespace hflex::gpu
