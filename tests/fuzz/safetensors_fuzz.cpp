// Any bytes as a safetensors file: what is handed out lies inside the file and has the size that its shape says.
#include "actors/common/check.hpp"
#include "gpu/model/safetensors.hpp"
#include <cstddef>
#include <cstdint>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::span file(reinterpret_cast<const std::byte*>(data), size);
  std::vector<std::string> faults;
  for (const auto& [name, tensor] : hflex::gpu::parse_safetensors(file, "fuzz", faults)) {
    HFLEX_CHECK(tensor.data.data() >= file.data() && tensor.data.data() + tensor.data.size() <= file.data() + size);
    std::uint64_t bytes = hflex::gpu::bytes_of(tensor.type);
    for (const auto n : tensor.shape) bytes *= n;
    HFLEX_CHECK(bytes == tensor.data.size());
  }
  return 0;
}
