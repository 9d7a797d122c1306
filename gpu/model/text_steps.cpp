#include "gpu/model/text_steps.hpp"
#include "gpu/model/utf8.hpp"
#include <algorithm>

namespace hflex::gpu {

std::string replaced(std::string_view text, std::string_view from, std::string_view to) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    const auto hit = text.find(from, at);
    out += text.substr(at, hit - at);
    if (hit == text.npos) break;
    out += to;
    at = hit + from.size();
  }
  return out;
}

std::string normalized(std::string_view text, std::span<const normalizer_step> steps) {
  std::string out(text);
  for (const auto& step : steps) {
    switch (step.what) {
    case normalizer_step::kind::compose:
      out = compose_nfc(out);
      break;
    case normalizer_step::kind::prepend:
      if (!out.empty()) out.insert(0, step.to);
      break;
    case normalizer_step::kind::replace:
      out = replaced(out, step.from, step.to);
      break;
    }
  }
  return out;
}

std::string marked(std::string_view text, const metaspace& how, bool at_start) {
  auto out = replaced(text, " ", how.mark);
  const bool wanted = how.prepend == metaspace::scheme::always || (how.prepend == metaspace::scheme::first && at_start);
  if (wanted && !out.starts_with(how.mark)) out.insert(0, how.mark);
  return out;
}

void cut_at_marks(std::string_view text, std::string_view mark, std::vector<std::string_view>& pieces) {
  while (!text.empty()) {
    const auto end = std::min(text.find(mark, text.starts_with(mark) ? mark.size() : 0), text.size());
    pieces.push_back(text.substr(0, end));
    text.remove_prefix(end);
  }
}

} // namespace hflex::gpu
