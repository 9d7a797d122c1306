#include "gpu/model/bpe.hpp"
#include "actors/common/check.hpp"
#include <algorithm>
#include <array>
#include <bit>
#include <queue>

namespace hflex::gpu {
namespace {

/// Up to here scanning all pairs beats a heap: nearly every piece of byte-level text is shorter.
constexpr std::size_t short_piece = 48;

constexpr std::uint64_t pair_key(token_id left, token_id right) {
  return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32U | static_cast<std::uint32_t>(right);
}

/// Finalizer of splitmix64 (Steele, Lea, Flood 2014): spreads neighbouring ids over the table.
constexpr std::uint64_t mix(std::uint64_t x) {
  x = (x ^ (x >> 30U)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27U)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31U);
}

} // namespace

bpe::bpe(std::span<const bpe_merge> merges) : table_(std::bit_ceil(merges.size() * 2 + 2)) {
  for (const auto& merge : merges) {
    HFLEX_CHECK(merge.rank != entry::none);
    const auto pair = pair_key(merge.left, merge.right);
    table_[slot_of(pair)] = {pair, merge.rank, merge.merged};
  }
}

std::size_t bpe::slot_of(std::uint64_t pair) const {
  const auto mask = table_.size() - 1;
  auto at = mix(pair) & mask;
  while (table_[at].rank != entry::none && table_[at].pair != pair) at = (at + 1) & mask;
  return at;
}

bpe::entry bpe::find(token_id left, token_id right) const { return table_[slot_of(pair_key(left, right))]; }

void bpe::encode(std::span<const token_id> symbols, std::vector<token_id>& out) const {
  if (symbols.size() <= short_piece) {
    encode_short(symbols, out);
  } else {
    encode_long(symbols, out);
  }
}

void bpe::encode_short(std::span<const token_id> piece, std::vector<token_id>& out) const {
  std::array<token_id, short_piece> symbols;
  std::array<entry, short_piece> pairs; // pairs[i] joins symbols[i] and symbols[i + 1]
  std::size_t n = piece.size();
  std::copy(piece.begin(), piece.end(), symbols.begin());
  for (std::size_t i = 0; i + 1 < n; ++i) pairs[i] = find(symbols[i], symbols[i + 1]);
  while (n > 1) {
    std::size_t best = 0;
    for (std::size_t i = 1; i + 1 < n; ++i) {
      if (pairs[i].rank < pairs[best].rank) best = i;
    }
    if (pairs[best].rank == entry::none) break;
    symbols[best] = pairs[best].merged;
    std::copy(symbols.begin() + best + 2, symbols.begin() + n, symbols.begin() + best + 1);
    std::copy(pairs.begin() + best + 1, pairs.begin() + (n - 1), pairs.begin() + best);
    --n;
    if (best + 1 < n) pairs[best] = find(symbols[best], symbols[best + 1]);
    if (best > 0) pairs[best - 1] = find(symbols[best - 1], symbols[best]);
  }
  out.insert(out.end(), symbols.begin(), symbols.begin() + n);
}

void bpe::encode_long(std::span<const token_id> piece, std::vector<token_id>& out) const {
  // Symbols stay where their first part stood and are linked; a heap holds the merges that were possible when they were
  // seen, and what has changed since is noticed when it is taken out.
  struct symbol {
    token_id id;
    std::size_t previous;
    std::size_t next;
  };
  struct candidate {
    std::uint32_t rank;
    token_id merged;
    std::size_t at;
    std::uint64_t pair;
    bool operator>(const candidate& o) const { return rank != o.rank ? rank > o.rank : at > o.at; }
  };
  constexpr token_id gone = -1;
  std::vector<symbol> symbols;
  symbols.reserve(piece.size());
  for (const auto id : piece) symbols.push_back({id, symbols.size() - 1, symbols.size() + 1});
  const std::size_t end = symbols.size();
  symbols.front().previous = end;
  std::priority_queue<candidate, std::vector<candidate>, std::greater<>> heap;
  const auto consider = [&](std::size_t at) {
    if (at == end || symbols[at].next == end) return;
    const auto found = find(symbols[at].id, symbols[symbols[at].next].id);
    if (found.rank != entry::none) heap.push({found.rank, found.merged, at, found.pair});
  };
  for (std::size_t i = 0; i + 1 < end; ++i) consider(i);
  while (!heap.empty()) {
    const auto top = heap.top();
    heap.pop();
    auto& left = symbols[top.at];
    if (left.id == gone || left.next == end || pair_key(left.id, symbols[left.next].id) != top.pair) continue;
    auto& right = symbols[left.next];
    left.id = top.merged;
    left.next = right.next;
    right.id = gone;
    if (left.next != end) symbols[left.next].previous = top.at;
    consider(left.previous);
    consider(top.at);
  }
  for (std::size_t i = 0; i < end; i = symbols[i].next) out.push_back(symbols[i].id);
}

} // namespace hflex::gpu
