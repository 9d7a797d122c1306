#include "gpu/weights_upload.hpp"
#include "gpu/model/f16_range.hpp"
#include "gpu/model/packed_model.hpp"
#include "gpu/thread_pool.hpp"
#include "gpu/weights_arrival.hpp"
#include <algorithm>
#include <cstring>

namespace hflex::gpu {
namespace {

/// As long as a step on a CPU waits for weights of which nothing comes.
constexpr std::chrono::seconds region_patience{30};
/// Copying within memory gains little from more threads, and the others have something else to do.
constexpr std::uint32_t max_copy_threads = 8;
constexpr std::uint64_t copy_slice = 1U << 20U;

result<void> wait_for(const weight_region& region, chunk_range chunks, const std::atomic<bool>& stopped) {
  const auto arrival = region.arrival();
  if (!arrival || arrival->whole()) return {};
  return arrival->wait(chunks, region_patience, stopped);
}

/// hflex_cuda_upload::copy and its user.
struct region_copy {
  const weight_region& region;
  const std::uint64_t head_bytes;
  const std::atomic<bool>& stopped;
  result<void> came{};
  thread_pool threads{std::min(usable_cores(), max_copy_threads)};

  static int copy(void* user, void* to, const void* from, std::uint64_t bytes) {
    return static_cast<region_copy*>(user)->run(static_cast<std::byte*>(to), static_cast<const std::byte*>(from), bytes)
               ? 0
               : 1;
  }

private:
  bool run(std::byte* to, const std::byte* from, std::uint64_t bytes) {
    const auto begin = static_cast<std::uint64_t>(from - region.data().data()) - head_bytes;
    const auto chunks = chunk_range{static_cast<std::uint32_t>(begin / weight_chunk_bytes),
        static_cast<std::uint32_t>((begin + bytes + weight_chunk_bytes - 1) / weight_chunk_bytes)};
    came = wait_for(region, chunks, stopped);
    if (!came) return false;
    const auto slices = static_cast<std::uint32_t>((bytes + copy_slice - 1) / copy_slice);
    threads.parallel_for(slices, [&](std::uint32_t i, std::uint32_t) {
      const auto at = i * copy_slice;
      std::memcpy(to + at, from + at, std::min(copy_slice, bytes - at));
    });
    return true;
  }
};

hflex_cuda_weights* make_weights(
    const upload_order& o, const hflex_cuda_model& model, const hflex_cuda_upload& how, hflex_cuda_fault& fault) {
  return o.cuda.make_weights(&model, static_cast<int>(o.device), element_of(o.compute), &how, &fault);
}

} // namespace

hflex_cuda_element element_of(compute_type compute) {
  switch (compute) {
  case compute_type::f32:
    return hflex_cuda_f32;
  case compute_type::f16:
    return hflex_cuda_f16;
  case compute_type::bf16:
    break;
  }
  return hflex_cuda_bf16;
}

result<void> check_range(const upload_order& o, const weight_region& region, const std::atomic<bool>& stopped) {
  if (o.compute != compute_type::f16) return {};
  const auto layout = layout_region(o.source.config);
  if (auto here = wait_for(region, {0, layout->chunks()}, stopped); !here) return here;
  return check_f16_range(region.data(), layout->tensors);
}

result<std::shared_ptr<placed_weights>> upload_weights(
    const upload_order& o, const weight_region& region, weights_way way, const std::atomic<bool>& stopped) {
  region_copy copy{region, layout_region(o.source.config)->head_bytes, stopped};
  hflex_cuda_fault fault{};
  auto* handle = make_weights(o, o.source.model, {0, &region_copy::copy, &copy}, fault);
  if (handle == nullptr && !copy.came) return pass(copy.came.error());
  if (handle == nullptr) return fail(errc::fatal, "{}", fault.words);
  return std::make_shared<placed_weights>(o.cuda, handle, way);
}

result<std::shared_ptr<placed_weights>> upload_locked(const upload_order& o, const locked_region& memory) {
  auto model = o.source.model;
  model.region = memory.data();
  hflex_cuda_fault fault{};
  auto* handle = make_weights(o, model, {1, nullptr, nullptr}, fault);
  if (handle == nullptr) return fail(errc::fatal, "{}", fault.words);
  return std::make_shared<placed_weights>(o.cuda, handle, weights_way::locked);
}

early_upload::early_upload(const hflex_cuda_functions& cuda, std::uint32_t device, compute_type compute,
    std::shared_ptr<const weight_region> region)
    : compute_(compute), region_(std::move(region)) {
  // Read here: its maker writes the region's head anew when the sums are known.
  auto source = std::make_unique<cuda_model_source>(*region_);
  thread_ = std::thread([this, &cuda, device, source = std::move(source)] {
    const upload_order o{cuda, *source, device, compute_};
    if (!check_range(o, *region_, stopped_)) return; // who places them finds the same, and says it
    if (auto made = upload_weights(o, *region_, weights_way::early, stopped_)) placed_ = std::move(*made);
  });
}

void early_upload::name(std::string digest) {
  const std::lock_guard lock(mutex_);
  digest_ = std::move(digest);
}

std::string early_upload::digest() const {
  const std::lock_guard lock(mutex_);
  return digest_;
}

std::shared_ptr<placed_weights> early_upload::take() {
  end();
  return std::exchange(placed_, nullptr);
}

void early_upload::give_up() {
  stopped_ = true;
  if (region_) region_->arrival()->wake();
  take();
}

void early_upload::end() {
  if (thread_.joinable()) thread_.join();
  region_.reset();
}

} // namespace hflex::gpu
