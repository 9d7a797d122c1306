// Picks effects of one kind out of what a core answered.
#pragma once
#include "tests/support/catch.hpp"
#include <variant>
#include <vector>

namespace hflex::test {

template <class Effect, class Variant>
std::vector<Effect> all(const std::vector<Variant>& effects) {
  std::vector<Effect> found;
  for (auto& e : effects)
    if (auto* hit = std::get_if<Effect>(&e)) found.push_back(*hit);
  return found;
}

template <class Effect, class Variant>
std::size_t count(const std::vector<Variant>& effects) {
  return all<Effect>(effects).size();
}

/// The one effect of that kind; fails the test when there is none or several.
template <class Effect, class Variant>
Effect only(const std::vector<Variant>& effects) {
  auto found = all<Effect>(effects);
  REQUIRE(found.size() == 1);
  return found.front();
}

} // namespace hflex::test
