#include "actors/wire/msg.hpp"

namespace hflex::wire {

bool plausible(const shared_words& words) {
  if (words.size() < 1) return false;
  std::uint32_t first = 0;
  std::memcpy(&first, words.data(), sizeof(first));
  auto segments = std::uint64_t{first} + 1;
  if (segments > 512) return false;
  auto needed = (segments + 2) / 2; // words of the table itself: a count and one size each, padded
  if (needed > words.size()) return false;
  const auto* bytes = reinterpret_cast<const char*>(words.data());
  for (std::uint64_t i = 0; i < segments; ++i) {
    std::uint32_t size = 0;
    std::memcpy(&size, bytes + sizeof(size) * (i + 1), sizeof(size));
    needed += size;
  }
  return needed <= words.size();
}

} // namespace hflex::wire
