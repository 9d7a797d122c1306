#include "actors/node/host_cache.hpp"
#include <algorithm>

namespace hflex::node {

std::vector<std::string> host_cache::add(const std::string& digest, std::uint64_t bytes) {
  if (!entries_.emplace(digest, entry{bytes, 0}).second) return {};
  bytes_ += bytes;
  idle_bytes_ += bytes;
  idle_.push_back(digest);
  return shrink(digest); // its user comes next
}

void host_cache::use(const std::string& digest) {
  auto found = entries_.find(digest);
  if (found == entries_.end() || ++found->second.users > 1) return;
  idle_bytes_ -= found->second.bytes;
  idle_.remove(digest);
}

std::vector<std::string> host_cache::release(const std::string& digest) {
  auto found = entries_.find(digest);
  if (found == entries_.end() || found->second.users == 0 || --found->second.users > 0) return {};
  idle_bytes_ += found->second.bytes;
  idle_.push_back(digest);
  return shrink({});
}

std::vector<std::string> host_cache::clear() {
  std::vector<std::string> all(idle_.begin(), idle_.end());
  for (const auto& digest : all) drop(digest);
  return all;
}

/// Frees the least recently used until the rest is within the bound; never `spare`.
std::vector<std::string> host_cache::shrink(const std::string& spare) {
  std::vector<std::string> freed;
  auto left = idle_bytes_;
  for (const auto& digest : idle_) {
    if (left <= max_idle_bytes_) break;
    if (digest == spare) continue;
    left -= entries_.at(digest).bytes;
    freed.push_back(digest);
  }
  for (const auto& digest : freed) drop(digest);
  return freed;
}

void host_cache::drop(const std::string& digest) {
  auto found = entries_.find(digest);
  bytes_ -= found->second.bytes;
  idle_bytes_ -= found->second.bytes;
  entries_.erase(found);
  idle_.remove(digest);
}

} // namespace hflex::node
