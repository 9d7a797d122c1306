// Stands in for gpu/weights.cpp until it is merged.
#include "gpu/weights.hpp"
namespace hflex::gpu {
result<std::shared_ptr<const weight_region>> map_weights(int, const std::string&) {
  return fail(errc::reject, "double");
}
} // namespace hflex::gpu
