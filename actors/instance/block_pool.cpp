#include "actors/instance/block_pool.hpp"
#include "actors/common/check.hpp"
#include <algorithm>

namespace hflex::instance {

block_pool::block_pool(std::uint32_t blocks, std::uint32_t block_size)
    : block_size_(block_size), blocks_(std::size_t{blocks} + 1), empty_(blocks) {
  HFLEX_CHECK(block_size > 0);
  for (std::uint32_t i = 0; i < blocks; ++i) empty_[i] = blocks - 1 - i; // block 0 goes first
  blocks_[blocks].older = blocks_[blocks].newer = blocks;
}

// ---- in and out ----

bool block_pool::allocate(std::uint32_t count, std::vector<std::uint32_t>& table) {
  if (count > free()) return false;
  for (std::uint32_t i = 0; i < count; ++i) {
    const auto index = take_one();
    blocks_[index].users = 1;
    table.push_back(index);
  }
  return true;
}

/// An empty one, else the idle one that was used longest ago, which is found no more.
std::uint32_t block_pool::take_one() {
  if (!empty_.empty()) {
    const auto index = empty_.back();
    empty_.pop_back();
    return index;
  }
  const auto index = blocks_[total()].newer;
  leave_idle(index);
  found_by_.erase(blocks_[index].hash);
  blocks_[index].full = false;
  return index;
}

void block_pool::release(std::vector<std::uint32_t>& table) {
  for (auto at = table.rbegin(); at != table.rend(); ++at) give_back(*at);
  table.clear();
}

void block_pool::give_back(std::uint32_t index) {
  HFLEX_CHECK(index < total() && blocks_[index].users > 0);
  auto& b = blocks_[index];
  if (--b.users > 0) return;
  if (b.full) {
    const auto [at, is_new] = found_by_.try_emplace(b.hash, index); // its twin may have been evicted meanwhile
    if (at->second == index) return enter_idle(index);
    // The twin has been of use just now as well: it must not be older than what follows it.
    if (const auto twin = at->second; blocks_[twin].users == 0) {
      leave_idle(twin);
      enter_idle(twin);
    }
    b.full = false;
  }
  empty_.push_back(index);
}

// ---- what they hold ----

bool block_pool::can_be_found(std::uint32_t index) const {
  if (!blocks_[index].full) return false;
  const auto at = found_by_.find(blocks_[index].hash);
  return at != found_by_.end() && at->second == index;
}

bool block_pool::holds(std::uint32_t index, std::span<const token_id> tokens) const {
  const auto from = contents_.begin() + static_cast<std::ptrdiff_t>(std::size_t{index} * block_size_);
  return std::equal(tokens.begin(), tokens.end(), from);
}

void block_pool::fill(std::uint32_t index, const block_hash& hash, std::span<const token_id> tokens) {
  if (contents_.empty()) contents_.resize(std::size_t{total()} * block_size_);
  blocks_[index].full = true;
  blocks_[index].hash = hash;
  std::copy(
      tokens.begin(), tokens.end(), contents_.begin() + static_cast<std::ptrdiff_t>(std::size_t{index} * block_size_));
}

prefix_hit block_pool::find(std::span<const block_hash> chain, std::span<const token_id> tokens) const {
  HFLEX_CHECK(tokens.size() / block_size_ >= chain.size());
  prefix_hit hit;
  for (const auto& hash : chain) {
    const auto at = found_by_.find(hash);
    if (at == found_by_.end() || !holds(at->second, tokens.subspan(std::size_t{hit.blocks} * block_size_, block_size_)))
      break;
    ++hit.blocks;
    hit.idle += blocks_[at->second].users == 0;
  }
  return hit;
}

void block_pool::share(std::span<const block_hash> chain, std::vector<std::uint32_t>& table) {
  for (const auto& hash : chain) {
    const auto index = found_by_.at(hash);
    use(index);
    table.push_back(index);
  }
}

void block_pool::use(std::uint32_t index) {
  if (blocks_[index].users++ == 0) leave_idle(index);
}

void block_pool::publish(
    std::uint32_t& block, const block_hash& hash, std::span<const token_id> tokens, bool may_swap) {
  HFLEX_CHECK(block < total() && blocks_[block].users == 1 && !blocks_[block].full && tokens.size() == block_size_);
  const auto [at, is_new] = found_by_.try_emplace(hash, block);
  if (is_new) return fill(block, hash, tokens);
  const auto twin = at->second;
  if (!holds(twin, tokens)) return; // equal hashes of different texts: this one stays unknown
  if (!may_swap) return fill(block, hash, tokens);
  use(twin);
  give_back(block);
  block = twin;
}

// ---- the idle, from the least to the most recently used ----

void block_pool::enter_idle(std::uint32_t index) {
  const auto ring = total();
  auto& b = blocks_[index];
  b.older = blocks_[ring].older;
  b.newer = ring;
  blocks_[b.older].newer = index;
  blocks_[ring].older = index;
  ++idle_;
}

void block_pool::leave_idle(std::uint32_t index) {
  const auto& b = blocks_[index];
  blocks_[b.older].newer = b.newer;
  blocks_[b.newer].older = b.older;
  --idle_;
}

// ---- for tests ----

bool block_pool::accounts_for(std::span<const std::vector<std::uint32_t>* const> tables) const {
  std::vector<std::uint32_t> users(total());
  for (const auto* table : tables)
    for (auto index : *table) {
      if (index >= total()) return false;
      ++users[index];
    }
  std::size_t in_use = 0;
  for (std::uint32_t i = 0; i < total(); ++i) {
    if (users[i] != blocks_[i].users) return false;
    // Only what can be found may be in two tables: all else may still be written.
    if (users[i] > 1 && !can_be_found(i)) return false;
    in_use += users[i] > 0;
  }
  return in_use + free() == total() && lists_are_sound();
}

bool block_pool::lists_are_sound() const {
  std::vector<bool> seen(total());
  const auto is_new = [&](std::uint32_t index) {
    const bool fresh = blocks_[index].users == 0 && !seen[index];
    seen[index] = true;
    return fresh;
  };
  for (auto index : empty_)
    if (!is_new(index) || blocks_[index].full) return false;
  std::uint32_t idle = 0;
  for (auto index = blocks_[total()].newer; index != total(); index = blocks_[index].newer, ++idle)
    if (!is_new(index) || !can_be_found(index)) return false;
  const bool found_are_full = std::all_of(found_by_.begin(), found_by_.end(),
      [&](const auto& found) { return blocks_[found.second].full && blocks_[found.second].hash == found.first; });
  return idle == idle_ && found_are_full;
}

} // namespace hflex::instance
