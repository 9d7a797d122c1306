// A device context of plain memory for tests of KV transport: known content, gates that hold a copy, counts of accesses
// and of those that came after the owner had taken its blocks back.
#pragma once
#include "gpu/device.hpp"
#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <functional>
#include <mutex>
#include <random>

namespace hflex::test {

class fake_device final : public gpu::device_context {
public:
  explicit fake_device(gpu::kv_geometry geometry) : geometry_{geometry}, pool_(geometry.pool_bytes()) {}

  const gpu::device_info& info() const override { return info_; }
  const gpu::kv_geometry& kv() const override { return geometry_; }
  std::uint32_t max_context() const override { return geometry_.blocks * geometry_.block_size; }
  std::uint32_t vocab_size() const override { return 1; }
  std::span<const token_id> eos_tokens() const override { return {}; }
  std::uint64_t memory_used_bytes() const override { return pool_.size(); }
  void submit(gpu::step_plan plan, gpu::step_callback done) override {
    done({plan.id, {}, {}, fail(errc::reject, "the fake device computes nothing"), {}});
  }

  result<void> read_kv(std::uint32_t layer, std::span<const gpu::block_index> table, std::uint32_t begin,
      std::uint32_t count, std::span<std::byte> out) const override {
    if (auto may = enter(reads_); !may) return may;
    const std::size_t half = geometry_.token_layer_bytes() / 2;
    for (std::uint32_t i = 0; i < count; ++i)
      for (std::size_t kv = 0; kv < 2; ++kv)
        std::memcpy(out.data() + (kv * count + i) * half, pool_.data() + row(layer, kv, table, begin + i), half);
    return {};
  }
  result<void> write_kv(std::uint32_t layer, std::span<const gpu::block_index> table, std::uint32_t begin,
      std::uint32_t count, std::span<const std::byte> in) override {
    if (auto may = enter(writes_); !may) return may;
    const std::size_t half = geometry_.token_layer_bytes() / 2;
    for (std::uint32_t i = 0; i < count; ++i)
      for (std::size_t kv = 0; kv < 2; ++kv)
        std::memcpy(pool_.data() + row(layer, kv, table, begin + i), in.data() + (kv * count + i) * half, half);
    if (on_write) on_write();
    return {};
  }

  void fill(std::uint32_t seed) {
    std::mt19937 random{seed};
    for (auto& b : pool_) b = static_cast<std::byte>(random());
  }
  /// Content of one token in one layer, K then V.
  std::vector<std::byte> token(std::uint32_t layer, std::span<const gpu::block_index> table, std::uint32_t at) const {
    const std::size_t half = geometry_.token_layer_bytes() / 2;
    std::vector<std::byte> out(2 * half);
    for (std::size_t kv = 0; kv < 2; ++kv)
      std::memcpy(out.data() + kv * half, pool_.data() + row(layer, kv, table, at), half);
    return out;
  }

  /// While shut, every access waits; `open_gate` lets all go on.
  void shut_gate() { set_gate(true); }
  void open_gate() { set_gate(false); }
  /// From now on an access is a fault of the transport's.
  void take_back() { taken_back_ = true; }
  int late_accesses() const { return late_; }
  void fail_accesses() { failing_ = true; }
  bool wait_for_writes(int n) const { return wait_for(writes_, n); }
  bool wait_for_reads(int n) const { return wait_for(reads_, n); }

  std::function<void()> on_write; ///< set before the device is used

private:
  std::size_t row(
      std::uint32_t layer, std::size_t kv, std::span<const gpu::block_index> table, std::uint32_t at) const {
    const std::size_t block = table[at / geometry_.block_size];
    const std::size_t slot = (layer * 2 + kv) * geometry_.blocks * geometry_.block_size + block * geometry_.block_size +
                             at % geometry_.block_size;
    return slot * geometry_.token_layer_bytes() / 2;
  }
  result<void> enter(int& counter) const {
    std::unique_lock lock{mutex_};
    if (taken_back_) ++late_;
    ++counter;
    changed_.notify_all();
    changed_.wait(lock, [&] { return !gate_shut_; });
    if (failing_) return fail(errc::fatal, "the fake device is broken");
    return {};
  }
  void set_gate(bool is_shut) {
    const std::lock_guard lock{mutex_};
    gate_shut_ = is_shut;
    changed_.notify_all();
  }
  bool wait_for(const int& counter, int n) const {
    std::unique_lock lock{mutex_};
    return changed_.wait_for(lock, std::chrono::seconds{60}, [&] { return counter >= n; });
  }

  gpu::device_info info_{"cpu", "fake", "portable", 0, 0};
  gpu::kv_geometry geometry_;
  std::vector<std::byte> pool_;
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  mutable int reads_{0};
  mutable int writes_{0};
  bool gate_shut_{false};
  std::atomic<bool> taken_back_{false};
  std::atomic<bool> failing_{false};
  mutable std::atomic<int> late_{0};
};

} // namespace hflex::test
