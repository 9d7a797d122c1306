#include "gpu/cuda_plugin.hpp"
#include "tests/support/catch.hpp"

namespace hflex::cuda_plugin_test {

TEST_CASE("a build without the CUDA plug-in says so instead of failing to start") {
  auto found = gpu::find_cuda_devices("/nonexistent/hflex_cuda.so");
  REQUIRE(!found);
  CHECK(found.error().code == errc::reject);
  CHECK(found.error().message == "no CUDA device: this hflex was built without CUDA");
}

TEST_CASE("a library that is no CUDA plug-in of this version is refused") {
  auto found = gpu::find_cuda_devices("/proc/self/exe");
  REQUIRE(!found);
  CHECK(found.error().message.find("no CUDA device") == 0);
}

} // namespace hflex::cuda_plugin_test
