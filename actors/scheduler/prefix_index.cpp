#include "actors/scheduler/prefix_index.hpp"
#include <algorithm>
#include <iterator>

namespace hflex::scheduler {

void prefix_index::add(instance_id at, std::uint64_t tokens) {
  remove(at);
  caches_[at].most = tokens;
}

void prefix_index::remove(instance_id at) {
  auto found = caches_.find(at);
  if (found == caches_.end()) return;
  auto& c = found->second;
  while (!c.used.empty()) drop(at, c, c.used.begin());
  caches_.erase(found);
}

void prefix_index::drop(instance_id at, cache& of, order::iterator which) {
  auto holders = holders_.find(which->mark);
  auto& ids = holders->second;
  ids.erase(std::lower_bound(ids.begin(), ids.end(), at));
  if (ids.empty()) holders_.erase(holders);
  of.tokens -= which->tokens;
  of.at.erase(which->mark);
  of.used.erase(which);
}

void prefix_index::learn(instance_id at, std::span<const prefix_mark> marks) {
  auto found = caches_.find(at);
  if (found == caches_.end()) return;
  auto& c = found->second;
  // From the end, so that the beginning is the most recently used.
  for (std::size_t i = marks.size(); i-- > 0;) {
    if (auto known = c.at.find(marks[i]); known != c.at.end()) {
      c.used.splice(c.used.begin(), c.used, known->second);
      continue;
    }
    const auto tokens = mark_length(i) - (i > 0 ? mark_length(i - 1) : 0);
    c.used.push_front({marks[i], tokens});
    c.at.emplace(marks[i], c.used.begin());
    c.tokens += tokens;
    auto& ids = holders_[marks[i]];
    ids.insert(std::lower_bound(ids.begin(), ids.end(), at), at);
  }
  while (c.tokens > c.most && !c.used.empty()) drop(at, c, std::prev(c.used.end()));
}

void prefix_index::correct(instance_id at, std::span<const prefix_mark> marks, std::uint32_t tokens) {
  auto found = caches_.find(at);
  if (found == caches_.end()) return;
  auto& c = found->second;
  for (std::size_t i = 0; i < marks.size(); ++i) {
    if (mark_length(i) <= tokens) continue;
    if (auto known = c.at.find(marks[i]); known != c.at.end()) drop(at, c, known->second);
  }
}

std::vector<prefix_index::hit> prefix_index::find(std::span<const prefix_mark> marks) const {
  std::vector<hit> hits;
  std::vector<instance_id> open; // have the text so far; sorted
  for (std::size_t i = 0; i < marks.size(); ++i) {
    const auto holders = holders_.find(marks[i]);
    std::vector<instance_id> still;
    if (holders != holders_.end()) {
      const auto& ids = holders->second;
      if (i == 0)
        still = ids;
      else
        std::set_intersection(open.begin(), open.end(), ids.begin(), ids.end(), std::back_inserter(still));
    }
    if (i > 0)
      for (auto id : open)
        if (!std::binary_search(still.begin(), still.end(), id)) hits.push_back({id, mark_length(i - 1)});
    open = std::move(still);
    if (open.empty()) break;
  }
  for (auto id : open) hits.push_back({id, mark_length(marks.size() - 1)});
  std::sort(hits.begin(), hits.end(), [](const hit& a, const hit& b) { return a.instance < b.instance; });
  return hits;
}

} // namespace hflex::scheduler
