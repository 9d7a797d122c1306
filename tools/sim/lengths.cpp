#include "tools/sim/lengths.hpp"
#include "actors/common/nearest.hpp"
#include "config/fault.hpp"
#include "tools/sim/csv.hpp"
#include <algorithm>
#include <array>
#include <cmath>
#include <map>

namespace hflex::sim {

namespace {

constexpr std::array<std::string_view, 6> words{"mean", "cv", "median", "sigma", "min", "max"};

[[nodiscard]] tl::unexpected<error> expected(std::string_view what, std::string_view found) {
  return fail(errc::reject, "expected {}, found {}", what, config::shown(found));
}

/// "p50" -> 50
std::optional<double> percent(std::string_view key) {
  if (key.size() < 2 || key.front() != 'p') return std::nullopt;
  const auto n = to_real(key.substr(1));
  return n && *n >= 0 && *n <= 100 ? n : std::nullopt;
}

} // namespace

result<length_distribution> length_distribution::parse(std::string_view text) {
  length_distribution out;
  if (const auto always = to_real(text)) {
    if (*always < 1 || *always > most_tokens) return expected("from 1 to 16777216 tokens", text);
    out.knots_ = {{0, std::log(*always)}};
    out.max_ = most_tokens;
    return out;
  }
  std::vector<quantile> known;
  std::map<std::string_view, double> named;
  for (std::string_view rest = text; !rest.empty();) {
    const auto slash = rest.find('/');
    const std::string_view piece = trimmed(rest.substr(0, slash));
    rest = slash == rest.npos ? std::string_view{} : rest.substr(slash + 1);
    const auto colon = piece.find(':');
    const std::string_view key = piece.substr(0, colon);
    const auto n = colon == piece.npos ? std::nullopt : to_real(piece.substr(colon + 1));
    const auto p = percent(key);
    if (!n) return expected("lengths such as 512, p50:512/p99:6000, mean:800/cv:1.2 or median:512/sigma:0.8", piece);
    if (!p && std::find(words.begin(), words.end(), key) == words.end()) {
      const std::string hint = did_you_mean(key, words);
      return fail(errc::reject, "expected p0 to p100, mean, cv, median, sigma, min or max, found {}{}{}",
          config::shown(key), hint.empty() ? "" : "; ", hint);
    }
    const bool spread = key == "cv" || key == "sigma";
    if (spread ? *n < 0 || *n > 20 : *n < 1 || *n > most_tokens)
      return expected(spread ? "from 0 to 20" : "from 1 to 16777216 tokens", piece);
    const std::string_view word = !p ? key : *p == 0 ? "min" : *p == 100 ? "max" : "";
    if (word.empty())
      known.push_back({*p, *n});
    else if (!named.emplace(word, *n).second)
      return expected("each value once", piece);
  }
  const auto has = [&](std::string_view word) { return named.contains(word); };
  const bool by_mean = has("mean") && has("cv");
  const bool by_median = has("median") && has("sigma");
  const auto shapes = named.size() - named.count("min") - named.count("max");
  if (shapes != (by_mean || by_median ? 2U : 0U) || known.empty() == (shapes == 0))
    return expected("either quantiles, or mean and cv, or median and sigma", text);
  if (by_mean || by_median) {
    const double variance = by_mean ? std::log1p(named["cv"] * named["cv"]) : named["sigma"] * named["sigma"];
    const double middle = by_mean ? std::log(named["mean"]) - variance / 2 : std::log(named["median"]);
    out.knots_ = {{0, middle}, {1, middle + std::sqrt(variance)}};
  } else {
    auto by_quantiles = from_quantiles(std::move(known), text);
    if (!by_quantiles) return by_quantiles;
    out = std::move(*by_quantiles);
  }
  if (has("min")) out.min_ = named["min"];
  if (has("max")) out.max_ = named["max"];
  if (out.min_ > out.max_) return expected("min at most max", text);
  return out;
}

result<length_distribution> length_distribution::from_quantiles(std::vector<quantile> known, std::string_view what) {
  length_distribution out;
  if (known.empty()) return expected("at least one quantile", what);
  std::sort(known.begin(), known.end(), [](const quantile& a, const quantile& b) { return a.percent < b.percent; });
  for (const quantile& q : known) {
    const knot next{normal_quantile(q.percent / 100), std::log(std::max(q.tokens, 1.0))};
    if (!out.knots_.empty() && (next.z <= out.knots_.back().z || next.log_tokens < out.knots_.back().log_tokens))
      return expected("each quantile once, and longer lengths at higher ones", what);
    out.knots_.push_back(next);
  }
  return out;
}

std::uint32_t length_distribution::at(double z) const {
  double log_tokens = knots_.front().log_tokens;
  if (knots_.size() > 1) {
    // The segment around z; the outermost ones reach on.
    const auto above = std::find_if(knots_.begin() + 1, knots_.end() - 1, [&](const knot& k) { return k.z >= z; });
    const knot& high = *above;
    const knot& low = *(above - 1);
    log_tokens = low.log_tokens + (high.log_tokens - low.log_tokens) * (z - low.z) / (high.z - low.z);
  }
  const double tokens = std::exp(std::min(log_tokens, std::log(max_)));
  return static_cast<std::uint32_t>(std::llround(std::clamp(tokens, min_, max_)));
}

} // namespace hflex::sim
