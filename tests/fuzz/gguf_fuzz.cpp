// Any bytes as a GGUF file: what is handed out lies inside the file and has the size that its shape says, and what its
// metadata mean is refused or understood.
#include "actors/common/check.hpp"
#include "gpu/model/gguf_model.hpp"
#include "gpu/model/gguf_tokenizer.hpp"
#include <cstddef>
#include <cstdint>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace hflex::gpu;
  const std::span file(reinterpret_cast<const std::byte*>(data), size);
  std::vector<std::string> faults;
  const auto content = parse_gguf(file, "fuzz", faults);
  for (const auto& [name, tensor] : content.tensors) {
    HFLEX_CHECK(tensor.data.data() >= file.data() && tensor.data.data() + tensor.data.size() <= file.data() + size);
    HFLEX_CHECK(tensor_bytes(tensor.type, tensor.shape) == tensor.data.size());
  }
  for (const auto& [key, value] : content.metadata) {
    const auto texts = strings_of(value);
    HFLEX_CHECK(!texts || texts->size() == std::get<gguf_array>(value).count);
    HFLEX_CHECK(!described(value).empty());
  }
  const auto report = gguf_config(content, "fuzz");
  if (report.faults.empty()) HFLEX_CHECK(huggingface_tensors(content, report.config).size() <= content.tensors.size());
  const auto words = read_gguf_tokenizer(content, "fuzz");
  HFLEX_CHECK(words.has_value() || !words.error().message.empty());
  return 0;
}
