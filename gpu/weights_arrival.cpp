#include "gpu/weights_arrival.hpp"
#include "actors/common/check.hpp"
#include <algorithm>

namespace hflex::gpu {

void weights_arrival::put(std::uint32_t chunk) {
  const std::lock_guard lock{mutex_};
  HFLEX_CHECK(chunk < here_.size() && !here_[chunk]);
  here_[chunk] = true;
  if (--missing_ == 0) whole_.store(true, std::memory_order_release);
  changed_.notify_all();
}

void weights_arrival::wake() {
  const std::lock_guard lock{mutex_}; // who has looked at its flag is waiting by now
  changed_.notify_all();
}

bool weights_arrival::has(chunk_range chunks) const {
  HFLEX_CHECK(chunks.begin <= chunks.end && chunks.end <= here_.size());
  const auto at = here_.begin();
  return std::all_of(at + chunks.begin, at + chunks.end, [](bool here) { return here; });
}

result<void> weights_arrival::wait(chunk_range chunks, duration patience, const std::atomic<bool>& stopped) const {
  std::unique_lock lock{mutex_};
  while (!has(chunks)) {
    if (stopped) return fail(errc::reroute, "the weights are not waited for any more");
    const auto missing = missing_;
    const auto moved = [&] { return stopped || missing_ != missing; };
    if (!changed_.wait_for(lock, patience, moved))
      return fail(errc::retry, "no weights arrived for {:g} s; {} of {} chunks are missing", to_s(patience), missing_,
          here_.size());
  }
  return {};
}

} // namespace hflex::gpu
