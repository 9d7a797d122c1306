#include "tools/sim/generator.hpp"
#include "actors/common/check.hpp"
#include "actors/common/nearest.hpp"
#include "config/fault.hpp"
#include "tools/sim/rate_curve.hpp"
#include "tools/sim/settings.hpp"
#include <array>
#include <cmath>
#include <fmt/ranges.h>

namespace hflex::sim {

namespace {

using std::string_view;

constexpr std::array kinds{string_view{"poisson"}, string_view{"gamma"}, string_view{"diurnal"}};
constexpr std::array keys{string_view{"rate"}, string_view{"duration"}, string_view{"requests"}, string_view{"cv"},
    string_view{"period"}, string_view{"amplitude"}, string_view{"phase"}, string_view{"rates"}, string_view{"speed"},
    string_view{"prompt"}, string_view{"output"}, string_view{"lengths"}, string_view{"share"}, string_view{"prefix"},
    string_view{"prefixes"}, string_view{"seed"}};

/// Independent streams of random numbers: more arrivals do not change the lengths.
enum stream : std::uint64_t { arrivals = 1, lengths = 2, prefixes = 3 };

struct sine {
  double amplitude{0.5};
  double period_s{86'400};
};

struct synthetic {
  string_view kind;
  double rate{};
  double cv{1};
  double end_s{};
  std::size_t requests{};
  sine wave;
  std::optional<rate_curve> curve;
  double phase_s{};
  double speed{1};
  length_table lengths;
  double share{};
  std::uint32_t prefix_tokens{};
  std::uint32_t prefixes{1};
  std::uint64_t seed{};
};

/// "FILE:NAME"; a ':' inside the path is told by the '/' or '.' behind it.
std::pair<std::string, std::string> file_and_name(const std::string& text) {
  const auto colon = text.rfind(':');
  if (colon == text.npos || text.find_first_of("/.", colon) != text.npos) return {text, {}};
  return {text.substr(0, colon), text.substr(colon + 1)};
}

class description_reader {
public:
  description_reader(const settings& from, const generator_options& options) : from_(from), options_(options) {}

  result<synthetic> read(string_view kind) {
    out_.kind = kind;
    for (const auto step : {&description_reader::read_curve, &description_reader::read_rate,
             &description_reader::read_extent, &description_reader::read_lengths_of, &description_reader::read_sharing})
      if (auto ok = (this->*step)(); !ok) return pass(ok.error());
    return std::move(out_);
  }

private:
  [[nodiscard]] tl::unexpected<error> wrong(string_view key, string_view expected) const {
    return tl::unexpected(from_.wrong(key, expected));
  }

  /// Puts a key's value into `to`, when it is there.
  template <class T>
  result<void> real(string_view key, double least, double most, T& to) const {
    const auto n = from_.real(key, least, most);
    if (!n) return pass(n.error());
    if (*n) to = **n;
    return {};
  }
  template <class T>
  result<void> whole(string_view key, std::uint64_t least, std::uint64_t most, T& to) const {
    const auto n = from_.whole(key, least, most);
    if (!n) return pass(n.error());
    if (*n) to = static_cast<T>(**n);
    return {};
  }

  result<void> read_curve() {
    const bool diurnal = out_.kind == "diurnal";
    for (string_view key : {"period", "amplitude", "phase", "rates", "speed"})
      if (!diurnal && from_.has(key)) return wrong(key, "it with diurnal arrivals only");
    if (out_.kind != "gamma" && from_.has("cv")) return wrong("cv", "it with gamma arrivals only");
    if (const auto named = from_.text("rates")) {
      for (string_view key : {"period", "amplitude"})
        if (from_.has(key)) return wrong(key, "either a sine or rates=FILE");
      const auto [file, column] = file_and_name(*named);
      auto curve = read_rate_curve(file, column);
      if (!curve) return pass(curve.error());
      out_.curve = std::move(*curve);
    }
    if (auto ok = real("period", 1, 1e9, out_.wave.period_s); !ok) return ok;
    if (auto ok = real("amplitude", 0, 1, out_.wave.amplitude); !ok) return ok;
    if (auto ok = real("phase", 0, 1e9, out_.phase_s); !ok) return ok;
    if (auto ok = real("speed", 1e-3, 1e6, out_.speed); !ok) return ok;
    return real("cv", 0, 100, out_.cv);
  }

  result<void> read_rate() {
    if (auto ok = real("rate", 1e-6, 1e6, out_.rate); !ok) return ok;
    if (out_.curve && from_.has("rate")) out_.curve->scale(out_.rate / out_.curve->mean());
    if (out_.curve) out_.rate = out_.curve->mean();
    return out_.rate > 0 ? result<void>{} : wrong("rate", "requests per second");
  }

  result<void> read_extent() {
    const auto length = from_.seconds("duration", 0.001);
    if (!length) return pass(length.error());
    if (auto ok = whole("requests", 1, options_.max_requests, out_.requests); !ok) return ok;
    if (*length)
      out_.end_s = to_s(**length);
    else if (out_.requests > 0)
      out_.end_s = 1e9;
    else if (options_.length)
      out_.end_s = to_s(*options_.length);
    else if (out_.curve && out_.curve->length_s() > 0)
      out_.end_s = out_.curve->length_s() / out_.speed;
    else
      return wrong("duration", "seconds (or requests=N)");
    if (out_.requests == 0) {
      if (out_.end_s * out_.rate > static_cast<double>(options_.max_requests) * 0.9)
        return wrong("duration", fmt::format("at most {} requests in all", options_.max_requests));
      out_.requests = options_.max_requests;
    }
    return {};
  }

  result<void> read_lengths_of() {
    const bool both = from_.has("prompt") && from_.has("output");
    const bool either = from_.has("prompt") || from_.has("output");
    if (from_.has("lengths") ? either : !both)
      return wrong(from_.has("lengths")  ? "lengths"
                   : from_.has("prompt") ? "output"
                                         : "prompt",
          "both prompt and output, or lengths alone");
    if (const auto named = from_.text("lengths")) {
      const auto [file, service] = file_and_name(*named);
      auto table = read_lengths(file, service);
      if (!table) return pass(table.error());
      out_.lengths = std::move(*table);
      return {};
    }
    for (const auto& [key, to] : {std::pair{"prompt", &out_.lengths.prompt}, {"output", &out_.lengths.output}}) {
      auto read = length_distribution::parse(*from_.text(key));
      if (!read) return fail(errc::reject, "synthetic: {}: {}", key, read.error().message);
      *to = std::move(*read);
    }
    return {};
  }

  result<void> read_sharing() {
    if (from_.has("share") != from_.has("prefix"))
      return wrong(from_.has("share") ? "prefix" : "share", "share and prefix together");
    if (from_.has("prefixes") && !from_.has("prefix")) return wrong("prefixes", "it with share and prefix");
    if (auto ok = real("share", 0, 1, out_.share); !ok) return ok;
    if (auto ok = whole("prefix", 16, std::uint64_t{1} << 20U, out_.prefix_tokens); !ok) return ok;
    if (auto ok = whole("prefixes", 1, 1'000'000, out_.prefixes); !ok) return ok;
    if (out_.prefix_tokens % 16 != 0) return wrong("prefix", "a multiple of 16");
    out_.seed = options_.seed;
    return whole("seed", 0, UINT64_MAX, out_.seed);
  }

  const settings& from_;
  const generator_options& options_;
  synthetic out_;
};

double rate_at(const synthetic& s, double t) {
  t = s.phase_s + t * s.speed;
  if (s.curve) return s.curve->rate_at(t);
  constexpr double turn = 6.283185307179586;
  return s.rate * (1 + s.wave.amplitude * std::sin(turn * t / s.wave.period_s));
}

/// Arrival times in seconds, one after the other.
class clock {
public:
  explicit clock(const synthetic& s)
      : s_(s), random_(s.seed, stream::arrivals),
        highest_(s.curve ? s.curve->highest() : s.rate * (1 + s.wave.amplitude)) {}

  double next() {
    if (s_.kind == "diurnal") {
      // Thinning (Lewis and Shedler, 1979): candidates at the highest rate, kept with the rate's share of it.
      do t_ += random_.exponential() / highest_;
      while (t_ < s_.end_s && random_.uniform() * highest_ > rate_at(s_, t_));
    } else if (s_.kind == "gamma") {
      const double shape = 1 / (s_.cv * s_.cv);
      t_ += s_.cv == 0 ? 1 / s_.rate : random_.gamma(shape) / (shape * s_.rate);
    } else {
      t_ += random_.exponential() / s_.rate;
    }
    return t_;
  }

private:
  const synthetic& s_;
  random_source random_;
  double highest_;
  double t_{};
};

/// The largest block of 512, 256, ... 16 tokens that the prefix is made of.
std::uint32_t block_of(std::uint32_t prefix_tokens) {
  std::uint32_t block = 512;
  while (block > 16 && prefix_tokens % block != 0) block /= 2;
  return block;
}

trace made(const synthetic& s) {
  trace out;
  out.prefix_block_tokens = block_of(s.prefix_tokens);
  const std::uint32_t prefix_blocks = s.prefix_tokens / out.prefix_block_tokens;
  clock clock(s);
  random_source lengths(s.seed, stream::lengths);
  random_source prefixes(s.seed, stream::prefixes);
  while (out.rows.size() < s.requests) {
    const double t = clock.next();
    if (t >= s.end_s) break;
    trace_row row;
    row.arrival = from_s(t);
    if (s.lengths.pairs.empty()) {
      row.prompt_tokens = s.lengths.prompt.sample(lengths);
      row.output_tokens = s.lengths.output.sample(lengths);
    } else {
      const auto& pair = s.lengths.pairs[lengths.below(static_cast<std::uint32_t>(s.lengths.pairs.size()))];
      row.prompt_tokens = pair.prompt_tokens;
      row.output_tokens = pair.output_tokens;
    }
    if (s.prefix_tokens > 0 && prefixes.uniform() < s.share) {
      const std::uint64_t first = std::uint64_t{prefixes.below(s.prefixes)} * prefix_blocks;
      for (std::uint32_t b = 0; b < prefix_blocks && b * out.prefix_block_tokens < row.prompt_tokens; ++b)
        row.prefix_blocks.push_back(first + b);
    }
    out.rows.push_back(std::move(row));
  }
  return out;
}

} // namespace

result<trace> generate(string_view description, const generator_options& options) {
  const auto comma = description.find(',');
  const string_view kind = trimmed(description.substr(0, comma));
  if (std::find(kinds.begin(), kinds.end(), kind) == kinds.end()) {
    const std::string hint = did_you_mean(kind, kinds);
    return fail(errc::reject, "synthetic: expected one of {}, found {}{}{}", fmt::join(kinds, ", "),
        config::shown(kind), hint.empty() ? "" : "; ", hint);
  }
  const auto from =
      settings::parse(comma == description.npos ? string_view{} : description.substr(comma + 1), "synthetic", keys);
  if (!from) return pass(from.error());
  auto read = description_reader{*from, options}.read(kind);
  if (!read) return pass(read.error());
  auto out = made(*read);
  if (out.rows.empty())
    return fail(errc::reject, "synthetic: expected at least one request, found none in {} s at {} per second",
        read->end_s, read->rate);
  return out;
}

std::vector<duration> poisson_arrivals(double rate, duration length, std::size_t most, random_source& random) {
  HFLEX_CHECK(rate > 0);
  std::vector<duration> out;
  for (double t = random.exponential() / rate; t < to_s(length) && out.size() < most; t += random.exponential() / rate)
    out.push_back(from_s(t));
  return out;
}

} // namespace hflex::sim
