// The shared-memory ring of one connection: the source makes it (memfd), fills it and passes its descriptor; the sink
// maps it read-only. Positions count bytes from the ring's birth and never wrap; a chunk is contiguous, the end of the
// ring is skipped when it does not fit. The reader trusts no number from the peer and cannot be made to fault: the
// seals forbid shrinking.
#pragma once
#include "actors/common/result.hpp"
#include "gpu/transport/unique_fd.hpp"
#include <cstddef>
#include <cstdint>
#include <span>

namespace hflex::gpu {

inline constexpr std::uint64_t min_ring_bytes = 64U << 10U;
inline constexpr std::uint64_t max_ring_bytes = 1U << 30U;

/// Shared pages, unmapped with the object.
class mapping {
public:
  mapping() = default;
  mapping(int fd, std::size_t bytes, bool writable);
  mapping(mapping&& other) noexcept;
  mapping& operator=(mapping&& other) noexcept;
  ~mapping();
  std::byte* data() const { return data_; } ///< nullptr when mapping failed
  std::size_t size() const { return bytes_; }

private:
  std::byte* data_{nullptr};
  std::size_t bytes_{0};
};

class ring_writer {
public:
  /// The ring and the descriptor to pass on. errc::fatal: no memory or no descriptors.
  static result<std::pair<ring_writer, unique_fd>> create(std::uint64_t bytes);

  /// Contiguous free room of `min`..`max` bytes (min <= max <= bytes / 4), or empty: wait for credit.
  std::span<std::byte> reserve(std::uint64_t min, std::uint64_t max);
  /// Takes `bytes` of what reserve gave; returns their position for the frame.
  std::uint64_t commit(std::uint64_t bytes);
  /// False when `position` is no credit we could have been given.
  [[nodiscard]] bool credit(std::uint64_t position);
  std::uint64_t bytes() const { return memory_.size(); }

private:
  explicit ring_writer(mapping memory) : memory_{std::move(memory)} {}
  mapping memory_;
  std::uint64_t head_{0};     // next free position
  std::uint64_t tail_{0};     // everything before was consumed
  std::uint64_t reserved_{0}; // where reserve's room begins
};

class ring_reader {
public:
  /// Maps what a peer passed. errc::reject: not a memfd in memory, not sealed against shrinking, or smaller than it
  /// says.
  static result<ring_reader> map(unique_fd fd, std::uint64_t bytes);

  /// The shared bytes at `position`; the peer may change them meanwhile: copy first, check the copy. errc::reject:
  /// outside.
  result<std::span<const std::byte>> at(std::uint64_t position, std::uint64_t bytes) const;
  /// Everything up to position + bytes (as checked by `at`) is read.
  void consume(std::uint64_t position, std::uint64_t bytes) { consumed_ = position + bytes; }
  std::uint64_t consumed() const { return consumed_; }

private:
  explicit ring_reader(mapping memory) : memory_{std::move(memory)} {}
  mapping memory_;
  std::uint64_t consumed_{0};
};

} // namespace hflex::gpu
