// A weight region's way from the host to a CUDA device: what of it is still arriving is waited for when its turn comes,
// so that a copy begins with what is here. Called by cuda_weights.cpp, which decides whether weights come this way.
#pragma once
#include "gpu/cuda_weights.hpp"
#include <atomic>
#include <thread>

namespace hflex::gpu {

hflex_cuda_element element_of(compute_type compute);

/// Which weights, and where to. `source` is of the region that is uploaded.
struct upload_order {
  const hflex_cuda_functions& cuda;
  const cuda_model_source& source;
  std::uint32_t device{};
  compute_type compute{};
};

/// errc::reject: a weight is beyond f16, which is looked for when all of the region is here, or others as
/// upload_weights.
result<void> check_range(const upload_order& o, const weight_region& region, const std::atomic<bool>& stopped);
/// Through pinned buffers. Blocks. errc::fatal: the device refuses; errc::retry: nothing arrived for too long;
/// errc::reroute: `stopped` is set, and the region's arrival was woken.
result<std::shared_ptr<placed_weights>> upload_weights(
    const upload_order& o, const weight_region& region, weights_way way, const std::atomic<bool>& stopped);
/// From page-locked memory of the same weights. Blocks. errc::fatal: the device refuses.
result<std::shared_ptr<placed_weights>> upload_locked(const upload_order& o, const locked_region& memory);

/// An upload while the region is still read from a disk, on a thread of its own. Nobody knows yet which weights they
/// are; once they have a digest, who places weights of that digest takes what has become of them. When this goes, its
/// thread has ended, and what nobody took is off the device.
class early_upload {
public:
  early_upload(const hflex_cuda_functions& cuda, std::uint32_t device, compute_type compute,
      std::shared_ptr<const weight_region> region);
  early_upload(const early_upload&) = delete;
  early_upload& operator=(const early_upload&) = delete;
  ~early_upload() { give_up(); }

  compute_type compute() const { return compute_; }
  /// The region is read, and these are its weights. Any thread.
  void name(std::string digest);
  std::string digest() const; ///< empty: not known yet. Any thread

  // Either of them, by whoever claimed it (cuda_weights.cpp):
  /// Waits for the rest of an upload that has its name. Null: it failed.
  std::shared_ptr<placed_weights> take();
  /// Nobody wants it: stops it and frees the device's memory.
  void give_up();

private:
  void end();

  const compute_type compute_;
  std::shared_ptr<const weight_region> region_;
  std::atomic<bool> stopped_{false};
  mutable std::mutex mutex_; ///< of the next
  std::string digest_;
  std::shared_ptr<placed_weights> placed_; ///< the thread's until it has ended
  std::thread thread_;
};

} // namespace hflex::gpu
