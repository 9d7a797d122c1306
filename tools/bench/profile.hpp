// Measures how long steps of every kind take on a device context: prefills, decodes and both at once over a grid of
// sizes. Called by `hflex profile`; the fit is step_time_fit's.
#pragma once
#include "actors/common/result.hpp"
#include "actors/common/step_time_fit.hpp"
#include "gpu/device.hpp"
#include <atomic>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

namespace hflex::bench {

struct profile_grid {
  std::vector<std::uint32_t> prefill{0, 16, 64, 128, 256, 512, 1024}; ///< tokens of the step's chunk
  std::vector<std::uint32_t> decode{0, 1, 2, 4, 8, 16, 32};           ///< sequences that decode in the step
  std::vector<std::uint32_t> context{16, 256, 1024, 2048};            ///< tokens before the chunk, and of each sequence
  std::uint32_t repeats{5}; ///< the median of so many steps, from submit to completion, is one measurement
};

/// What the neighbours of a measured step do.
enum class neighbour_work : std::uint8_t {
  decode,
  prefill,
  opposite ///< the other side of prefill and decode apart: they decode while prefills are measured, else they prefill
};

/// Device contexts that compute without a pause for as long as this lives: what the other instances of a host do to the
/// caches and the memory bandwidth that they share with the one that is measured. Their contexts must hold a sequence
/// of 300 tokens.
class busy_neighbours {
public:
  busy_neighbours(std::vector<std::shared_ptr<gpu::device_context>> contexts, neighbour_work work);
  /// A step is measured from now on. Holds from each neighbour's next step.
  void measure(bool with_prefill) { prefill_ = work_ == neighbour_work::opposite ? !with_prefill : prefill_.load(); }
  ~busy_neighbours();
  busy_neighbours(const busy_neighbours&) = delete;
  busy_neighbours& operator=(const busy_neighbours&) = delete;

private:
  const neighbour_work work_;
  std::atomic<bool> prefill_;
  std::atomic<bool> stopped_{false};
  std::vector<std::thread> threads_;
};

/// The steps of the grid that fit the context's KV pool, in an order that mixes large and small ones, so that what
/// disturbs the machine for a while disturbs all kinds alike. `on_step` sees how many of how many are done. Blocks.
result<std::vector<measured_step>> measure_steps(gpu::device_context& context, const profile_grid& grid,
    std::uint32_t max_batched_tokens, busy_neighbours& neighbours,
    const std::function<void(std::size_t done, std::size_t all)>& on_step);

} // namespace hflex::bench
