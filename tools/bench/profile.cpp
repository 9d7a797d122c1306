#include "tools/bench/profile.hpp"
#include "tools/bench/stepper.hpp"
#include <algorithm>
#include <numeric>

namespace hflex::bench {
namespace {

struct grid_point {
  std::uint32_t prefill{};
  std::uint32_t decode{};
  std::uint32_t context{};
};

std::vector<grid_point> points_of(const profile_grid& grid, const gpu::device_context& device, std::uint32_t most) {
  const auto& kv = device.kv();
  const auto blocks = [&](std::uint32_t tokens) { return (tokens + kv.block_size - 1) / kv.block_size; };
  std::vector<grid_point> points;
  for (auto p : grid.prefill)
    for (auto d : grid.decode)
      for (auto c : grid.context)
        if (p + d > 0 && p + d <= most && c + p + 1 <= device.max_context() && (d + 1) * blocks(c + p + 1) <= kv.blocks)
          points.push_back({p, d, c});
  // A stride that shares no factor with the count visits all points, neighbours far apart.
  std::vector<grid_point> mixed;
  std::size_t stride = points.size() / 3 + 1;
  while (std::gcd(stride, points.size()) != 1) ++stride;
  for (std::size_t i = 0; i < points.size(); ++i) mixed.push_back(points[i * stride % points.size()]);
  return mixed;
}

} // namespace

result<std::vector<measured_step>> measure_steps(gpu::device_context& context, const profile_grid& grid,
    std::uint32_t max_batched_tokens, busy_neighbours& neighbours,
    const std::function<void(std::size_t, std::size_t)>& on_step) {
  if (auto ok = fill_kv(context); !ok) return pass(ok.error());
  const auto points = points_of(grid, context, max_batched_tokens);
  std::vector<measured_step> steps;
  for (const auto& point : points) {
    measured_step measured;
    gpu::step_plan plan;
    const std::uint32_t stride = point.decode + 1;
    if (point.prefill > 0) {
      plan.items.push_back(make_item(context, 0, stride, point.context, point.prefill));
      measured.shape.add_prefill(point.prefill, point.context);
    }
    for (std::uint32_t i = 0; i < point.decode; ++i) {
      plan.items.push_back(make_item(context, i + 1, stride, point.context - 1, 1));
      measured.shape.add_decode(point.context);
    }
    neighbours.measure(point.prefill > 0);
    std::vector<duration> times;
    for (std::uint32_t i = 0; i <= grid.repeats; ++i) {
      // As an instance sees it, from handing in to being told: threads that wake up are part of every step.
      const auto begin = std::chrono::steady_clock::now();
      auto took = run_step(context, plan);
      if (!took) return pass(took.error());
      if (i > 0) times.push_back(std::chrono::steady_clock::now() - begin); // the first warms the caches
    }
    std::nth_element(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2), times.end());
    measured.elapsed = times[times.size() / 2];
    steps.push_back(measured);
    if (on_step) on_step(steps.size(), points.size());
  }
  return steps;
}

busy_neighbours::busy_neighbours(std::vector<std::shared_ptr<gpu::device_context>> contexts, neighbour_work work)
    : work_(work), prefill_(work != neighbour_work::decode) {
  constexpr std::uint32_t position = 256;
  constexpr std::uint32_t chunk = 128; // of 300 tokens, and a step as prefill has them
  for (auto& c : contexts)
    threads_.emplace_back([this, context = std::move(c)] {
      gpu::step_plan decode;
      decode.items.push_back(make_item(*context, 0, 1, position, 1));
      gpu::step_plan prefill;
      prefill.items.push_back(make_item(*context, 0, 1, chunk, chunk));
      while (!stopped_)
        if (!run_step(*context, prefill_ ? prefill : decode)) return;
    });
}

busy_neighbours::~busy_neighbours() {
  stopped_ = true;
  for (auto& t : threads_) t.join();
}

} // namespace hflex::bench
