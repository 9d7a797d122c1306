#include "actors/scaler/supply.hpp"
#include <algorithm>
#include <cmath>

namespace hflex::scaler {

namespace {

constexpr double ms = 1e-3;

} // namespace

double prefill_work(const step_time_model& m, double tokens, double squared) {
  return (m.c1_ms * tokens + m.c2_ms * squared / 2) * ms * m.safety;
}

double decode_work(const step_time_model& m, double prompt, double outputs, bool beside_prefill) {
  const double context = m.c4_ms + (beside_prefill ? m.c5_ms : 0.0);
  return outputs * (m.c1_ms + m.c3_ms + context * (prompt + outputs / 2)) * ms * m.safety;
}

binding binding_targets(const mix& classes, double least_share) {
  double all = 0;
  for (const auto& [name, c] : classes) all += c.arrivals;
  binding b;
  for (const auto& [name, c] : classes) {
    if (!(c.arrivals > 0) || c.arrivals < least_share * all) continue;
    b.ttft = std::min(b.ttft, c.ttft);
    b.tpot = std::min(b.tpot, c.tpot);
  }
  return b;
}

double decode_share_for_work(const step_time_model& m, duration tau, double most, double context) {
  const auto n = most_decodes(m, tau, most, context);
  const double work_ms = n * (m.c1_ms + m.c3_ms + m.c4_ms * context);
  return std::clamp(work_ms / std::max(to_ms(m.predict(decode_step(n, context))), 1e-9), 0.02, 1.0);
}

double instances_for(const work_rate& w, double share, duration horizon, double z) {
  const double by_chance = w.variance / std::max(to_s(horizon), 1e-3);
  return (w.expected + z * std::sqrt(by_chance + w.excess * w.excess)) / share;
}

double instances_for_residents(const demand_report& d, const step_time_model& m, duration tpot, instance_role side) {
  double work_ms = 0, blocks = 0, sequences = 0;
  double most_blocks = 0, most_sequences = 0;
  for (const auto& i : d.instances) {
    if (!can_decode(i.role)) continue;
    const double here = i.decoding + i.promised;
    sequences += here;
    work_ms += (m.c1_ms + m.c3_ms) * here + m.c4_ms * static_cast<double>(i.decode_context);
    blocks += i.kv_blocks_taken;
    most_blocks = std::max(most_blocks, static_cast<double>(i.kv_blocks));
    most_sequences = std::max(most_sequences, static_cast<double>(i.max_sequences));
  }
  if (side == instance_role::prefill || most_blocks <= 0) return 0;
  const double room_ms = std::max(to_ms(tpot) * share_for_work(m, tpot), 1e-6);
  return std::max({work_ms * m.safety / room_ms, blocks / most_blocks, sequences / std::max(most_sequences, 1.0)});
}

} // namespace hflex::scaler
