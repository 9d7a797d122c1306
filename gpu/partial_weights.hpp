// Weights of a known digest that are on their way into this process: memory that fills chunk by chunk, from one source
// or from several in turn, and is a region like any other when all is there. Holds nothing to be right that its head
// does not vouch for. Called by the transport, on one thread; its region's arrival tells other threads how far it is.
#pragma once
#include "gpu/model/region_head.hpp"
#include "gpu/region_memory.hpp"
#include "gpu/weights_arrival.hpp"
#include <vector>

namespace hflex::gpu {

class partial_weights {
public:
  /// `head` as a source sent it. errc::reject when it is not that of `digest`, errc::fatal for want of memory.
  static result<std::unique_ptr<partial_weights>> begin(std::span<const std::byte> head, const std::string& digest);
  partial_weights(const partial_weights&) = delete;
  partial_weights& operator=(const partial_weights&) = delete;
  ~partial_weights();

  const std::string& digest() const { return head_.digest; }
  std::uint64_t bytes() const { return head_.layout.bytes; }
  std::uint64_t bytes_here() const { return bytes_here_; }
  const region_layout& layout() const { return head_.layout; }
  std::uint32_t chunks() const { return head_.layout.chunks(); }
  std::uint32_t missing() const { return missing_; }
  bool has(std::uint32_t chunk) const { return has_[chunk]; }
  std::span<const std::byte> head() const { return map_.bytes().first(head_.layout.head_bytes); }
  /// Only of a chunk that is here. Valid until seal().
  std::span<const std::byte> chunk(std::uint32_t i) const;

  /// Where the bytes of a missing chunk go from its byte `from` on; from 0 it begins anew. errc::fatal when there is no
  /// memory left. Valid until seal().
  result<std::span<std::byte>> room(std::uint32_t chunk, std::uint64_t from = 0);
  /// Bytes of the chunk that room() gave, in order, as they were written: hashed while they are in the cache.
  void wrote(std::span<const std::byte> bytes);
  /// The chunk is whole: it is here if its checksum is right. errc::reject otherwise: it is still missing.
  result<void> finish(std::uint32_t chunk);

  /// As it will be, with an arrival: for those who can use a part of it.
  const std::shared_ptr<const weight_region>& region() const { return region_; }
  /// When nothing is missing: the region, from now on for everybody. This object is of no use afterwards.
  result<std::shared_ptr<const weight_region>> seal();

private:
  struct hasher;
  partial_weights(region_head head, std::shared_ptr<const weight_region> region, region_mapping map);

  region_head head_;
  std::shared_ptr<const weight_region> region_;
  region_mapping map_; ///< for writing; the region has another one
  std::vector<bool> has_;
  std::vector<bool> reserved_;
  std::uint32_t missing_;
  std::uint64_t bytes_here_;
  std::unique_ptr<hasher> hash_;
};

} // namespace hflex::gpu
