// The weights that this process can give to other hosts: whole regions, and those that are still arriving, of which it
// gives the chunks that it has. One thread (the line's).
#pragma once
#include "gpu/partial_weights.hpp"
#include <map>
#include <optional>
#include <string>

namespace hflex::gpu {

class weights_shelf {
public:
  using region_ptr = std::shared_ptr<const weight_region>;

  /// A region whose head cannot be read is kept off the shelf: no other process could use it.
  void offer(region_ptr region) {
    auto head = read_region_head(region->data());
    if (!head || head->digest != region->digest() || head->layout.bytes != region->data().size()) return;
    partial_.erase(region->digest());
    auto& at = whole_[region->digest()];
    at = {std::move(region), std::move(head->layout)};
  }
  void withdraw(const std::string& digest) { whole_.erase(digest); }

  partial_weights* arriving(const std::string& digest) {
    const auto it = partial_.find(digest);
    return it == partial_.end() ? nullptr : it->second.get();
  }
  partial_weights& arrives(std::unique_ptr<partial_weights> weights) {
    auto& at = partial_[weights->digest()];
    at = std::move(weights);
    return *at;
  }
  void drop_arriving(const std::string& digest) { partial_.erase(digest); }
  region_ptr whole(const std::string& digest) const {
    const auto it = whole_.find(digest);
    return it == whole_.end() ? nullptr : it->second.region;
  }

  /// Empty: nothing of them is here (yet).
  std::span<const std::byte> head(const std::string& digest) const {
    if (const auto it = whole_.find(digest); it != whole_.end())
      return it->second.region->data().first(it->second.layout.head_bytes);
    const auto it = partial_.find(digest);
    return it == partial_.end() ? std::span<const std::byte>{} : it->second->head();
  }
  std::uint32_t chunks(const std::string& digest) const {
    if (const auto it = whole_.find(digest); it != whole_.end()) return it->second.layout.chunks();
    const auto it = partial_.find(digest);
    return it == partial_.end() ? 0 : it->second->chunks();
  }
  /// Empty: not here (yet). Valid until the next call that changes anything. chunk < chunks().
  std::span<const std::byte> chunk(const std::string& digest, std::uint32_t chunk) const {
    if (const auto it = whole_.find(digest); it != whole_.end())
      return it->second.region->data().subspan(
          it->second.layout.chunk_offset(chunk), it->second.layout.chunk_size(chunk));
    const auto it = partial_.find(digest);
    return it != partial_.end() && it->second->has(chunk) ? it->second->chunk(chunk) : std::span<const std::byte>{};
  }

private:
  struct whole_weights {
    region_ptr region;
    region_layout layout;
  };
  std::map<std::string, whole_weights> whole_;
  std::map<std::string, std::unique_ptr<partial_weights>> partial_;
};

} // namespace hflex::gpu
