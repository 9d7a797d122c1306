#include "gpu/model/region_head.hpp"
#include "actors/common/check.hpp"
#include <cstring>
#include <xxhash.h>

namespace hflex::gpu {

result<region_head> read_region_head(std::span<const std::byte> bytes) {
  region_header header;
  if (bytes.size() < sizeof header) return fail(errc::reject, "weight region: {} bytes hold no header", bytes.size());
  std::memcpy(&header, bytes.data(), sizeof header);
  if (header.magic != region_magic) return fail(errc::reject, "weight region: not one (magic)");
  if (header.version != region_version)
    return fail(errc::reject, "weight region: version {}, this build reads {}", header.version, region_version);
  auto config = to_model_config(header.config);
  if (!config) return pass(config.error());
  auto layout = layout_region(*config);
  if (!layout) return fail(errc::reject, "weight region: {}", layout.error().message);
  if (header.entry_count != layout->tensors.size() || header.region_bytes != layout->bytes ||
      bytes.size() < layout->head_bytes)
    return fail(errc::reject, "weight region: {} tensors in {} bytes, expected {} in {}; {} bytes of its head are here",
        header.entry_count, header.region_bytes, layout->tensors.size(), layout->bytes, bytes.size());
  // The layout begins with the table and the checksums: they are inside the head.
  std::vector<region_entry> entries(header.entry_count);
  const std::byte* at = bytes.data() + sizeof header;
  std::memcpy(entries.data(), at, entries.size() * sizeof(region_entry));
  std::vector<hash128> sums(layout->chunks());
  std::memcpy(sums.data(), at + entries.size() * sizeof(region_entry), sums.size() * sizeof(hash128));
  for (std::size_t i = 0; i < entries.size(); ++i) {
    const region_entry& e = entries[i];
    if (layout->tensors[i] !=
        tensor_place{static_cast<tensor_kind>(e.kind), e.layer, e.rows, e.columns, e.offset, e.bytes})
      return fail(errc::reject, "weight region: tensor {} is not where the configuration puts it", i);
  }
  if (digest_of(header.config, entries, sums) != header.digest)
    return fail(errc::reject, "weight region: the digest is not that of the content");
  return region_head{header.config, std::move(*layout), std::move(sums), {header.digest.data(), header.digest.size()}};
}

std::string write_region_head(std::span<std::byte> region, const region_config& config, const region_layout& layout,
    std::span<const hash128> sums) {
  HFLEX_CHECK(sums.size() == layout.chunks() && region.size() >= layout.head_bytes);
  std::vector<region_entry> entries;
  for (const auto& t : layout.tensors)
    entries.push_back({static_cast<std::uint32_t>(t.kind), t.layer, t.rows, t.columns, t.offset, t.bytes});
  region_header header{
      region_magic, region_version, static_cast<std::uint32_t>(entries.size()), layout.bytes, config, {}};
  header.digest = digest_of(config, entries, sums);
  std::byte* at = region.data();
  std::memcpy(at, &header, sizeof header);
  at += sizeof header;
  std::memcpy(at, entries.data(), entries.size() * sizeof(region_entry));
  at += entries.size() * sizeof(region_entry);
  std::memcpy(at, sums.data(), sums.size_bytes());
  return {header.digest.data(), header.digest.size()};
}

struct chunk_summer::state {
  XXH3_state_t* hash{XXH3_createState()};
};

chunk_summer::chunk_summer() : state_(std::make_unique<state>()) {
  HFLEX_CHECK(state_->hash != nullptr);
  XXH3_128bits_reset(state_->hash);
}

chunk_summer::~chunk_summer() { XXH3_freeState(state_->hash); }

void chunk_summer::add(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const std::uint64_t left = weight_chunk_bytes - position_ % weight_chunk_bytes;
    const auto part = bytes.first(std::min<std::uint64_t>(left, bytes.size()));
    XXH3_128bits_update(state_->hash, part.data(), part.size());
    position_ += part.size();
    bytes = bytes.subspan(part.size());
    if (position_ % weight_chunk_bytes != 0) continue;
    const XXH128_hash_t h = XXH3_128bits_digest(state_->hash);
    sums_.push_back({h.low64, h.high64});
    XXH3_128bits_reset(state_->hash);
  }
}

void chunk_summer::add_zeros(std::uint64_t count) {
  constexpr std::array<std::byte, 64> zeros{};
  for (; count > 0; count -= std::min<std::uint64_t>(count, zeros.size()))
    add(std::span(zeros).first(std::min<std::uint64_t>(count, zeros.size())));
}

std::vector<hash128> chunk_summer::finish() {
  if (position_ % weight_chunk_bytes != 0) {
    const XXH128_hash_t h = XXH3_128bits_digest(state_->hash);
    sums_.push_back({h.low64, h.high64});
  }
  return std::move(sums_);
}

} // namespace hflex::gpu
