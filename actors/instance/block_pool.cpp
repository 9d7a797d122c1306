#include "actors/instance/block_pool.hpp"
#include "actors/common/check.hpp"

namespace hflex::instance {

block_pool::block_pool(std::uint32_t blocks) : free_(blocks), is_free_(blocks, true) {
  for (std::uint32_t i = 0; i < blocks; ++i) free_[i] = blocks - 1 - i; // block 0 goes first
}

bool block_pool::allocate(std::uint32_t count, std::vector<std::uint32_t>& table) {
  if (count > free_.size()) return false;
  for (std::uint32_t i = 0; i < count; ++i) {
    auto block = free_.back();
    free_.pop_back();
    is_free_[block] = false;
    table.push_back(block);
  }
  return true;
}

void block_pool::release(std::vector<std::uint32_t>& table) {
  for (auto block : table) {
    HFLEX_CHECK(block < is_free_.size() && !is_free_[block]);
    is_free_[block] = true;
    free_.push_back(block);
  }
  table.clear();
}

bool block_pool::accounts_for(std::span<const std::vector<std::uint32_t>* const> tables) const {
  auto seen = is_free_;
  std::size_t count = free_.size();
  for (const auto* table : tables)
    for (auto block : *table) {
      if (block >= seen.size() || seen[block]) return false;
      seen[block] = true;
      ++count;
    }
  return count == seen.size();
}

} // namespace hflex::instance
