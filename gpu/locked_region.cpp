#include "gpu/locked_region.hpp"

namespace hflex::gpu {

result<std::shared_ptr<const locked_region>> locked_region::lock(
    const hflex_cuda_functions& cuda, const weight_region& region, std::uint32_t device) {
  // A mapping that can be written would keep memory that is still arriving from being sealed.
  if (auto sealed = sealed_size(region.fd()); !sealed) return pass(sealed.error());
  // Not the region's own mapping: that is private, and pages of private mappings are copied before they are locked.
  auto map = map_file(region.fd(), region.bytes(), map_mode::share);
  if (!map) return fail(errc::reject, "{}", map.error().message);
  hflex_cuda_fault fault{};
  if (cuda.lock_host(map->bytes().data(), region.bytes(), static_cast<int>(device), &fault) != hflex_cuda_ok)
    return fail(errc::reject, "page-locking weights: {}", fault.words);
  return std::make_shared<const locked_region>(cuda, std::move(*map), device);
}

locked_region::~locked_region() { cuda_.unlock_host(map_.bytes().data(), static_cast<int>(device_)); }

} // namespace hflex::gpu
