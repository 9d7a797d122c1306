// Any bytes as config.json: refused, or a configuration that keeps its promises.
#include "actors/common/check.hpp"
#include "gpu/model/model_config.hpp"
#include <cstddef>
#include <cstdint>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto report = hflex::gpu::parse_model_config({reinterpret_cast<const char*>(data), size}, "fuzz");
  if (!report.faults.empty()) return 0;
  const auto& c = report.config;
  HFLEX_CHECK(c.hidden > 0 && c.intermediate > 0 && c.layers > 0 && c.vocab > 0 && c.max_context > 0);
  HFLEX_CHECK(c.kv_heads > 0 && c.heads % c.kv_heads == 0 && c.head_dim > 0 && c.head_dim % 2 == 0);
  HFLEX_CHECK(c.rms_norm_eps > 0 && c.rope_theta >= 1 && c.bos < static_cast<hflex::token_id>(c.vocab));
  return 0;
}
