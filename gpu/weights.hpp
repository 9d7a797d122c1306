// Weights of one model, packed for the host kernels, in one sealed shared-memory region (memfd). One copy per host
// serves every context and process that maps it: a process gets the file descriptor from a neighbour instead of reading
// the disk.
#pragma once
#include "actors/common/result.hpp"
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

namespace hflex::gpu {

struct model_config;
class weights_arrival;

/// Called now and then while weights load. Any thread. Must not block.
using progress_callback = std::function<void(std::uint64_t bytes_done, std::uint64_t bytes_total)>;

/// Read-only mapping of packed weights. Immutable and shareable between threads once made; one that is still being
/// received has its head from the beginning, and says by `arrival` what else may be read.
class weight_region {
public:
  virtual ~weight_region() = default;
  /// Identity of the content: hex digest over the configuration and the checksums of all chunks (XXH3: against mistakes
  /// and damage, not against forgers). Two regions with the same digest are interchangeable; a changed checkpoint has
  /// another one.
  virtual const std::string& digest() const = 0;
  virtual std::uint64_t bytes() const = 0;
  virtual int fd() const = 0; ///< sealed memfd, owned by the region; send it with SCM_RIGHTS
  virtual std::span<const std::byte> data() const = 0;
  /// What of it is here; null: all of it, from the beginning. Nobody may read, or give on, a chunk that is not here.
  virtual std::shared_ptr<weights_arrival> arrival() const { return nullptr; }
  /// Keeps what somebody has made of this memory (page-locked it, say) for as long as it keeps the memory; a region
  /// that does not care lets it go at once. Any thread.
  virtual void keep(std::shared_ptr<const void> companion) const { companion.reset(); }
};

struct load_options {
  std::uint32_t threads{0}; ///< that pack, 0 = all cores, up to 16
  /// Hears once of the region as it will be, before any of it is read, on the calling thread; may be empty. Its head
  /// says what lies where, its arrival which of it may be read, and its digest, which is not known yet, is empty. When
  /// reading fails the rest never arrives: who waits for it is to be told.
  std::function<void(std::shared_ptr<const weight_region>)> coming{};
};

/// Reads a checkpoint (a directory with config.json and model.safetensors, or a GGUF file), packs it and seals it.
/// Blocks: call it on a loader thread. errc::reject names the file and tensor that are at fault.
result<std::shared_ptr<const weight_region>> load_weights(
    const std::string& model_dir, const progress_callback& progress, const load_options& options = {});

/// Weights of no meaning in the shape of `config`, for benchmarks: same seed, same weights. errc::reject as
/// load_weights.
result<std::shared_ptr<const weight_region>> random_weights(const model_config& config, std::uint64_t seed);

/// How far a descriptor's sender is believed. A wrong head could crash us and is never believed; wrong numbers in the
/// chunks only make wrong tokens. Memory that a process of our own user has sealed was checked there when it was packed
/// or received, and cannot have changed since: reading all of it again would cost more than everything else.
enum class trust : std::uint8_t { nothing, head_only };

/// Maps weights that another process packed. Takes ownership of `fd` (closed on failure too). Checks that the file is
/// sealed against change, that head and sizes are sane and the digest right, and, with trust::nothing, every chunk's
/// checksum: a hostile peer gets an error, never a crash.
result<std::shared_ptr<const weight_region>> map_weights(
    int fd, const std::string& expected_digest, trust how = trust::nothing);

/// Names, sizes, inodes and times of change of the checkpoint's files, as hex: on one host, as long as the stamp of a
/// directory or GGUF file stays the same, so do the weights in it. Reads no contents. Empty when there is none.
std::string checkpoint_stamp(const std::string& model);

/// The digest that load_weights would give, without its memory: tensors are packed one panel at a time and hashed.
/// Reads the whole checkpoint once. Blocks. Errors as load_weights.
result<std::string> checkpoint_digest(const std::string& model_dir);

} // namespace hflex::gpu
