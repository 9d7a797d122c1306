#include "gpu/partial_weights.hpp"
#include "actors/common/check.hpp"
#include <cstring>
#include <xxhash.h>

namespace hflex::gpu {

struct partial_weights::hasher {
  hasher() { HFLEX_CHECK(state != nullptr); }
  hasher(const hasher&) = delete;
  hasher& operator=(const hasher&) = delete;
  ~hasher() { XXH3_freeState(state); }
  XXH3_state_t* state{XXH3_createState()};
};

result<std::unique_ptr<partial_weights>> partial_weights::begin(
    std::span<const std::byte> head, const std::string& digest) {
  auto read = read_region_head(head);
  if (!read) return pass(read.error());
  if (read->digest != digest) return fail(errc::reject, "weight region: digest {}, expected {}", read->digest, digest);
  const std::uint64_t head_bytes = read->layout.head_bytes;
  auto fd = create_region_memory(read->layout.bytes);
  if (!fd) return pass(fd.error());
  auto map = map_file(fd->get(), read->layout.bytes, map_mode::write);
  if (!map) return pass(map.error());
  if (auto ok = reserve_memory(fd->get(), *map, 0, head_bytes); !ok) return pass(ok.error());
  std::memcpy(map->bytes().data(), head.data(), head_bytes);
  auto arrival = std::make_shared<weights_arrival>(read->layout.chunks());
  auto region = open_region(std::move(*fd), read->layout.bytes, read->digest, std::move(arrival));
  if (!region) return pass(region.error());
  return std::unique_ptr<partial_weights>{new partial_weights(std::move(*read), std::move(*region), std::move(*map))};
}

partial_weights::partial_weights(region_head head, std::shared_ptr<const weight_region> region, region_mapping map)
    : head_(std::move(head)), region_(std::move(region)), map_(std::move(map)), has_(head_.layout.chunks()),
      reserved_(head_.layout.chunks()), missing_(head_.layout.chunks()), bytes_here_(head_.layout.head_bytes),
      hash_(std::make_unique<hasher>()) {}

partial_weights::~partial_weights() = default;

std::span<const std::byte> partial_weights::chunk(std::uint32_t i) const {
  return map_.bytes().subspan(head_.layout.chunk_offset(i), head_.layout.chunk_size(i));
}

result<std::span<std::byte>> partial_weights::room(std::uint32_t chunk, std::uint64_t from) {
  HFLEX_CHECK(chunk < chunks() && !has_[chunk]);
  const auto offset = head_.layout.chunk_offset(chunk);
  const auto size = head_.layout.chunk_size(chunk);
  if (!reserved_[chunk])
    if (auto ok = reserve_memory(region_->fd(), map_, offset, size); !ok) return pass(ok.error());
  reserved_[chunk] = true;
  if (from == 0) XXH3_128bits_reset(hash_->state);
  return map_.bytes().subspan(offset + from, size - from);
}

void partial_weights::wrote(std::span<const std::byte> bytes) {
  XXH3_128bits_update(hash_->state, bytes.data(), bytes.size());
}

result<void> partial_weights::finish(std::uint32_t chunk) {
  const XXH128_hash_t h = XXH3_128bits_digest(hash_->state);
  if (head_.sums[chunk] != hash128{h.low64, h.high64})
    return fail(errc::reject, "weights {}: checksum of chunk {} is wrong", digest(), chunk);
  HFLEX_CHECK(!has_[chunk]);
  has_[chunk] = true;
  --missing_;
  bytes_here_ += head_.layout.chunk_size(chunk);
  region_->arrival()->put(chunk);
  return {};
}

result<std::shared_ptr<const weight_region>> partial_weights::seal() {
  HFLEX_CHECK(missing_ == 0);
  map_ = region_mapping{}; // a writable mapping forbids the seal
  if (auto sealed = seal_region(region_->fd()); !sealed) return pass(sealed.error());
  return region_;
}

} // namespace hflex::gpu
