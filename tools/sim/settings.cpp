#include "tools/sim/settings.hpp"
#include "actors/common/nearest.hpp"
#include "config/fault.hpp"
#include "tools/sim/csv.hpp"
#include <algorithm>
#include <fmt/ranges.h>

namespace hflex::sim {

result<settings> settings::parse(std::string_view text, std::string about, std::span<const std::string_view> known) {
  settings out;
  out.about_ = std::move(about);
  while (!text.empty()) {
    const auto comma = text.find(',');
    const std::string_view piece = trimmed(text.substr(0, comma));
    text = comma == text.npos ? std::string_view{} : text.substr(comma + 1);
    const auto equals = piece.find('=');
    if (equals == piece.npos || equals == 0 || equals + 1 == piece.size())
      return fail(errc::reject, "{}: expected key=value, found {}", out.about_, config::shown(piece));
    const std::string_view key = piece.substr(0, equals);
    if (std::find(known.begin(), known.end(), key) == known.end()) {
      const std::string hint = did_you_mean(key, known);
      return fail(errc::reject, "{}: expected one of {}, found {}{}{}", out.about_, fmt::join(known, ", "),
          config::shown(key), hint.empty() ? "" : "; ", hint);
    }
    if (out.has(key)) return fail(errc::reject, "{}: {}: expected it once, found it again", out.about_, key);
    out.parts_.push_back({std::string{key}, std::string{piece.substr(equals + 1)}});
  }
  return out;
}

const settings::part* settings::find(std::string_view key) const {
  const auto found = std::find_if(parts_.begin(), parts_.end(), [&](const part& p) { return p.key == key; });
  return found == parts_.end() ? nullptr : &*found;
}

std::optional<std::string> settings::text(std::string_view key) const {
  const part* p = find(key);
  return p == nullptr ? std::nullopt : std::optional{p->value};
}

result<std::optional<double>> settings::real(std::string_view key, double least, double most) const {
  const part* p = find(key);
  if (p == nullptr) return std::nullopt;
  const auto n = to_real(p->value);
  if (!n || *n < least || *n > most)
    return tl::unexpected(wrong(key, fmt::format("a number from {} to {}", least, most)));
  return n;
}

result<std::optional<std::uint64_t>> settings::whole(
    std::string_view key, std::uint64_t least, std::uint64_t most) const {
  const part* p = find(key);
  if (p == nullptr) return std::nullopt;
  const auto n = to_whole(p->value);
  if (!n || *n < least || *n > most)
    return tl::unexpected(wrong(key, fmt::format("a whole number from {} to {}", least, most)));
  return n;
}

result<std::optional<duration>> settings::seconds(std::string_view key, double least) const {
  const auto n = real(key, least, 1e9);
  if (!n) return pass(n.error());
  if (!*n) return std::nullopt;
  return from_s(**n);
}

error settings::wrong(std::string_view key, std::string_view expected) const {
  const part* p = find(key);
  return {errc::reject, fmt::format("{}: {}: expected {}, found {}", about_, key, expected,
                            p == nullptr ? std::string{"none"} : config::shown(p->value))};
}

} // namespace hflex::sim
