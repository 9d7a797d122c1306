// "Did you mean ...?": the known word closest to one that is not known. Used wherever people write names: config keys,
// policies, prompt files, SLO classes.
#pragma once
#include <span>
#include <string>
#include <string_view>

namespace hflex {

/// How many letters must be inserted, removed, replaced or swapped with a neighbour to turn `a` into `b` (optimal
/// string alignment). Letters are bytes; words longer than 64 count as too far (returns the longer length).
std::size_t edit_distance(std::string_view a, std::string_view b);

/// The closest of `known` (the first of equals) when it is close enough to be a typing error: at most a third of the
/// longer word's letters, at least one. Empty when none is.
std::string_view nearest_word(std::string_view word, std::span<const std::string_view> known);

/// "did you mean 'x'?", or nothing when no known word is close.
std::string did_you_mean(std::string_view word, std::span<const std::string_view> known);

} // namespace hflex
