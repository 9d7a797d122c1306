#include "gpu/cuda_plugin.hpp"
#include "gpu/cuda/plugin_abi.hpp"
#include <algorithm>
#include <cstdlib>
#include <dlfcn.h>
#include <filesystem>
#include <fmt/ranges.h>
#include <memory>

namespace hflex::gpu {
namespace {

constexpr int max_devices = 64;

template <class Function>
Function* symbol(void* library, const char* name) {
  return reinterpret_cast<Function*>(::dlsym(library, name));
}

} // namespace

std::string cuda_plugin_path() {
  if (const char* named = std::getenv("HFLEX_CUDA_PLUGIN"); named != nullptr && *named != '\0') return named;
  std::error_code fault;
  const auto program = std::filesystem::read_symlink("/proc/self/exe", fault);
  return (program.parent_path() / "hflex_cuda.so").string();
}

bool cuda_driver_installed() {
  void* driver = ::dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
  if (driver != nullptr) ::dlclose(driver);
  return driver != nullptr;
}

result<const hflex_cuda_functions*> load_cuda_plugin(const std::string& path) {
  if (!std::filesystem::exists(path)) return fail(errc::reject, "no CUDA device: this hflex was built without CUDA");
  void* library = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL); // never unloaded: CUDA does not like to be
  if (library == nullptr) return fail(errc::reject, "no CUDA device: the CUDA plug-in does not load ({})", ::dlerror());
  auto* version = symbol<hflex_cuda_abi_version_fn>(library, "hflex_cuda_abi_version");
  auto* entry = symbol<hflex_cuda_functions_fn>(library, "hflex_cuda_entry");
  if (version == nullptr || entry == nullptr || version() != hflex_cuda_abi)
    return fail(errc::reject, "no CUDA device: {} is of another version of hflex", path);
  return entry();
}

result<cuda_report> find_cuda_devices(const std::string& path) {
  auto plugin = load_cuda_plugin(path);
  if (!plugin) return pass(plugin.error());
  std::vector<hflex_cuda_device> found(max_devices);
  hflex_cuda_fault fault{};
  const int count = (*plugin)->devices(found.data(), max_devices, &fault);
  if (count <= 0) return fail(errc::reject, "{}", fault.words[0] != '\0' ? fault.words : "no CUDA device");
  cuda_report report;
  report.nccl_version = (*plugin)->nccl_version();
  for (int i = 0; i < std::min(count, max_devices); ++i) {
    const auto& d = found[static_cast<std::size_t>(i)];
    report.devices.push_back(
        {"cuda", d.name, fmt::format("sm_{}{}", d.compute_major, d.compute_minor), d.memory_bytes, 0});
    report.uuids.push_back(fmt::format("{:02x}", fmt::join(d.uuid, "")));
  }
  return report;
}

} // namespace hflex::gpu
