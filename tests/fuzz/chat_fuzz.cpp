// Any bytes as a checkpoint's chat template: of no family known here, or one whose conversations keep their promises.
#include "actors/common/check.hpp"
#include "gpu/model/chat_template.hpp"
#include <array>
#include <cstddef>
#include <cstdint>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace hflex::gpu;
  const auto known = chat_template::recognize(std::string(reinterpret_cast<const char*>(data), size));
  if (!known) {
    HFLEX_CHECK(!known.error().message.empty());
    return 0;
  }
  HFLEX_CHECK(!known->family().empty() && !known->end_of_turn().empty());
  const std::array<chat_message, 4> messages{{{"system", " be brief "}, {"user", "one"},
      {"assistant", "<think>two</think>three"}, {"user", "[INST]<|im_end|>"}}};
  for (const std::size_t skipped : {std::size_t{0}, std::size_t{1}, std::size_t{3}}) {
    const auto pieces = known->render(std::span(messages).subspan(skipped));
    if (!pieces) continue;
    bool special = true;
    for (const auto& piece : *pieces) {
      HFLEX_CHECK(!piece.text.empty() && (special || piece.special)); // no two texts follow each other
      special = piece.special;
    }
  }
  return 0;
}
