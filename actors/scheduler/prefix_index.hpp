// What each instance's prefix cache is likely to hold, from what was sent there: texts by their marks
// (actors/common/prefix_marks.hpp). Instances evict without telling, so this is a guess that prefill reports correct.
// Kept by the ledger; it decides nothing. Bounded: per instance as many tokens as its pool has, least recently used and
// the end of a text before its beginning forgotten first, as the pools do it.
#pragma once
#include "actors/common/ids.hpp"
#include "actors/common/prefix_marks.hpp"
#include <cstdint>
#include <list>
#include <map>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

namespace hflex::scheduler {

class prefix_index {
public:
  /// An instance and how many of a text's first tokens it is likely to have.
  struct hit {
    instance_id instance;
    std::uint32_t tokens{};
    friend bool operator==(const hit&, const hit&) = default;
  };

  /// `tokens`: what its pool holds. A known one forgets what it had.
  void add(instance_id at, std::uint64_t tokens);
  void remove(instance_id at);

  /// The instance gets, or has, the text of these marks.
  void learn(instance_id at, std::span<const prefix_mark> marks);
  /// The instance had `tokens` of that text and no more: what was believed beyond is forgotten.
  void correct(instance_id at, std::span<const prefix_mark> marks, std::uint32_t tokens);
  /// Who has how much of that text, by instance id; none that has nothing. O(marks + hits).
  std::vector<hit> find(std::span<const prefix_mark> marks) const;

private:
  struct entry {
    prefix_mark mark{};
    std::uint32_t tokens{}; ///< that the mark adds to the one before
  };
  using order = std::list<entry>; ///< most recently used first
  struct cache {
    std::uint64_t most{};
    std::uint64_t tokens{};
    order used;
    std::unordered_map<prefix_mark, order::iterator> at;
  };
  void drop(instance_id at, cache& of, order::iterator which);

  std::map<instance_id, cache> caches_;
  std::unordered_map<prefix_mark, std::vector<instance_id>> holders_; ///< sorted
};

} // namespace hflex::scheduler
