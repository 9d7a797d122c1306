#include "actors/common/step_capacity.hpp"
#include <algorithm>

namespace hflex {

double share_for_work(const step_time_model& m, duration tau) {
  const double per_step_ms = std::max(0.0, m.c0_ms - m.c1_ms * m.m0);
  return std::clamp(1.0 - per_step_ms * m.safety / std::max(to_ms(tau), 1e-3), 0.02, 1.0);
}

std::uint32_t most_decodes(const step_time_model& m, duration tau, double most, double context) {
  std::uint32_t least = 1, more = static_cast<std::uint32_t>(std::clamp(most, 1.0, 1e9));
  while (least < more) {
    const auto middle = least + (more - least + 1) / 2;
    if (m.plan_ahead(decode_step(middle, context)) <= tau)
      least = middle;
    else
      more = middle - 1;
  }
  return least;
}

step_shape decode_step(std::uint32_t sequences, double context) {
  step_shape shape;
  shape.decode_seqs = sequences;
  shape.decode_context = sequences * context;
  return shape;
}

} // namespace hflex
