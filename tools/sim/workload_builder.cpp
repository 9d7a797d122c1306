#include "tools/sim/workload_builder.hpp"
#include "actors/common/check.hpp"
#include "actors/common/nearest.hpp"
#include "config/loader.hpp"
#include "tools/sim/generator.hpp"
#include "tools/sim/settings.hpp"
#include "tools/sim/trace_reader.hpp"
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <fmt/ranges.h>
#include <map>

namespace hflex::sim {

namespace {

using std::string_view;

constexpr string_view synthetic_prefix = "synthetic:";
constexpr std::size_t max_requests = 10'000'000;
constexpr std::size_t max_prefix_blocks = std::size_t{1} << 27U; ///< of all requests: 1 GiB
constexpr std::array file_keys{string_view{"from"}, string_view{"duration"}, string_view{"session_rate"},
    string_view{"block"}, string_view{"max_tokens"}};

/// Independent streams of random numbers; the sources' own lie above.
enum class draw : std::uint64_t { class_of_row = 100, sessions = 200 };

struct source {
  std::string where; ///< FILE, or "synthetic:DESCRIPTION" without its settings
  std::string settings;
  std::string slo_class; ///< empty = not said
  std::uint64_t number{};
  bool is_synthetic() const { return string_view{where}.starts_with(synthetic_prefix); }
};

bool is_setting(string_view part) {
  const auto equals = part.find('=');
  return equals != part.npos && equals > 0 &&
         part.substr(0, equals).find_first_not_of("abcdefghijklmnopqrstuvwxyz_") == part.npos;
}

/// Takes "@CLASS" off a part's end. What has a '/' or '.' behind the '@' is a path.
string_view take_class(string_view& part) {
  const auto at = part.rfind('@');
  if (at == part.npos || at + 1 == part.size() || part.find_first_of("/.", at) != part.npos) return {};
  const string_view name = part.substr(at + 1);
  part = part.substr(0, at);
  return name;
}

result<std::vector<source>> split_sources(string_view text) {
  std::vector<source> out;
  for (bool more = true; more;) {
    const auto comma = text.find(',');
    more = comma != text.npos;
    string_view part = trimmed(text.substr(0, comma));
    if (more) text.remove_prefix(comma + 1);
    const string_view name = take_class(part);
    if (out.empty() || !is_setting(part)) {
      if (part.empty())
        return fail(errc::reject, "expected a trace file or synthetic:... before or after every comma, found nothing");
      out.push_back({std::string{part}, {}, {}, out.size()});
    } else {
      std::string& settings = out.back().settings;
      settings += (settings.empty() ? "" : ",") + std::string{part};
    }
    if (name.empty()) continue;
    if (!out.back().slo_class.empty())
      return fail(
          errc::reject, "{}: expected one class, found @{} and @{}", out.back().where, out.back().slo_class, name);
    out.back().slo_class = name;
  }
  return out;
}

/// The sessions of a trace whose arrivals count from each one's start, overlaid.
result<trace> overlay_sessions(
    const source& from, trace&& rows, double rate, std::optional<duration> length, std::uint64_t seed) {
  std::map<string_view, std::size_t> index;
  std::vector<std::vector<const trace_row*>> sessions;
  for (const trace_row& r : rows.rows) {
    if (r.session.empty())
      return fail(errc::reject, "{}:{}: expected a session_id, as session_rate needs, found none", from.where, r.line);
    const auto [at, is_new] = index.emplace(r.session, sessions.size());
    if (is_new) sessions.emplace_back();
    sessions[at->second].push_back(&r);
  }
  random_source random(seed, static_cast<std::uint64_t>(draw::sessions) + from.number);
  constexpr duration no_end = std::chrono::hours{24 * 365 * 30};
  const auto starts = poisson_arrivals(rate, length.value_or(no_end), length ? max_requests : sessions.size(), random);
  trace out;
  out.prefix_block_tokens = rows.prefix_block_tokens;
  std::size_t blocks = 0;
  std::size_t left = 0; // of the sessions in their random order
  for (std::size_t s = 0; s < starts.size(); ++s) {
    if (left == 0) left = sessions.size();
    std::swap(sessions[random.below(static_cast<std::uint32_t>(left))], sessions[left - 1]);
    for (const trace_row* r : sessions[--left]) {
      if (length && starts[s] + r->arrival >= *length) continue;
      blocks += r->prefix_blocks.size();
      if (out.rows.size() >= max_requests || blocks > max_prefix_blocks)
        return fail(errc::reject,
            "{}: expected at most {} requests and {} block ids, found more; take a lower "
            "session_rate or a shorter duration",
            from.where, max_requests, max_prefix_blocks);
      trace_row copy = *r;
      copy.arrival += starts[s];
      for (std::uint64_t& id : copy.prefix_blocks) id = mix_bits(id + mix_bits(s + 1));
      out.rows.push_back(std::move(copy));
    }
  }
  std::stable_sort(
      out.rows.begin(), out.rows.end(), [](const trace_row& a, const trace_row& b) { return a.arrival < b.arrival; });
  if (out.rows.empty()) return fail(errc::reject, "{}: expected a session before the end, found none", from.where);
  return out;
}

result<trace> read_file(const source& from, std::optional<duration> run_length, std::uint64_t seed) {
  const auto given = settings::parse(from.settings, from.where, file_keys);
  if (!given) return pass(given.error());
  const auto start = given->seconds("from", 0);
  if (!start) return pass(start.error());
  const auto length = given->seconds("duration", 0.001);
  if (!length) return pass(length.error());
  const auto session_rate = given->real("session_rate", 1e-6, 1e6);
  if (!session_rate) return pass(session_rate.error());
  const auto block = given->whole("block", 1, 65536);
  if (!block) return pass(block.error());
  const auto bound = given->whole("max_tokens", 2, UINT32_MAX);
  if (!bound) return pass(bound.error());
  if (*block && !std::has_single_bit(**block)) return tl::unexpected(given->wrong("block", "a power of two"));
  if (*session_rate && *start) return tl::unexpected(given->wrong("from", "either session_rate or from"));

  trace_window window{start->value_or(duration{0}), *length ? *length : run_length};
  const auto overlay_length = window.length;
  if (*session_rate) window = {};
  auto read = read_trace(from.where, window);
  if (!read) return read;
  if (*bound) {
    auto& rows = read->rows;
    const auto too_long = [&](const trace_row& r) {
      return std::uint64_t{r.prompt_tokens} + r.output_tokens > **bound;
    };
    rows.erase(std::remove_if(rows.begin(), rows.end(), too_long), rows.end());
    if (rows.empty()) return tl::unexpected(given->wrong("max_tokens", "room for at least one request"));
  }
  if (*block) read->prefix_block_tokens = static_cast<std::uint32_t>(**block);
  if (!*session_rate) return read;
  return overlay_sessions(from, std::move(*read), **session_rate, overlay_length, seed);
}

result<trace> make_synthetic(const source& from, std::optional<duration> run_length, std::uint64_t seed) {
  std::string description = from.where.substr(synthetic_prefix.size());
  if (!from.settings.empty()) description += "," + from.settings;
  // Equal descriptions, twice in one list, are not the same requests twice.
  return generate(description, {mix_bits(seed + from.number), run_length, max_requests});
}

/// Which class each request has.
class class_picker {
public:
  explicit class_picker(const workload_options& options) : options_(options) {
    for (const slo_class& c : options.classes) names_.push_back(c.name);
  }

  result<void> prepare() {
    if (!options_.default_class.empty()) {
      auto i = index(options_.default_class, "the default class");
      if (!i) return pass(i.error());
      default_ = *i;
    } else if (names_.size() == 1) {
      default_ = 0;
    }
    return parse_mix();
  }

  result<std::uint32_t> index(string_view name, string_view where) const {
    const auto found = std::find(names_.begin(), names_.end(), name);
    if (found != names_.end()) return static_cast<std::uint32_t>(found - names_.begin());
    const std::string hint = did_you_mean(name, names_);
    return fail(errc::reject, "{}: expected an SLO class, one of {}, found {}{}{}", where, fmt::join(names_, ", "),
        config::shown(name), hint.empty() ? "" : "; ", hint);
  }

  result<std::uint32_t> of_row(const source& from, const trace_row& row, std::size_t number) const {
    if (!row.slo_class.empty()) return index(row.slo_class, fmt::format("{}:{}", from.where, row.line));
    if (!mix_.empty()) {
      // By the row's own number, so that what else is in the workload changes nothing.
      random_source random(
          mix_bits(options_.seed) + number, static_cast<std::uint64_t>(draw::class_of_row) + from.number);
      const double u = random.uniform() * mix_.back().up_to;
      return std::find_if(mix_.begin(), mix_.end() - 1, [&](const part& p) { return u < p.up_to; })->slo_class;
    }
    if (default_) return *default_;
    return fail(errc::reject,
        "{}: expected SLO classes ({}@CLASS, a column slo_class, a mix or a default), found none for a request; known "
        "are {}",
        from.where, from.where, fmt::join(names_, ", "));
  }

private:
  struct part {
    std::uint32_t slo_class{};
    double up_to{}; ///< the shares' running sum
  };

  result<void> parse_mix() {
    double sum = 0;
    for (string_view rest = options_.mix; !rest.empty();) {
      const auto comma = rest.find(',');
      const string_view piece = trimmed(rest.substr(0, comma));
      rest = comma == rest.npos ? string_view{} : rest.substr(comma + 1);
      const auto colon = piece.rfind(':');
      const auto share = colon == piece.npos ? std::nullopt : to_real(trimmed(piece.substr(colon + 1)));
      if (!share || *share < 0 || *share > 1e6)
        return fail(errc::reject, "mix: expected CLASS:SHARE such as interactive:0.3,batch:0.7, found {}",
            config::shown(piece));
      const auto i = index(trimmed(piece.substr(0, colon)), "mix");
      if (!i) return pass(i.error());
      sum += *share;
      mix_.push_back({*i, sum});
    }
    if (!mix_.empty() && sum <= 0) return fail(errc::reject, "mix: expected a share above 0, found none");
    return {};
  }

  const workload_options& options_;
  std::vector<string_view> names_;
  std::vector<part> mix_;
  std::optional<std::uint32_t> default_;
};

/// A source's block ids as ids of the workload: made its own, and split where the workload's blocks are smaller.
std::vector<std::uint64_t> salted(const std::vector<std::uint64_t>& ids, std::uint64_t source, std::uint32_t pieces) {
  std::vector<std::uint64_t> out;
  out.reserve(ids.size() * pieces);
  for (std::uint64_t id : ids) {
    const std::uint64_t own = mix_bits(id + mix_bits(source + 1));
    for (std::uint32_t p = 0; p < pieces; ++p) out.push_back(p == 0 ? own : mix_bits(own + p));
  }
  return out;
}

bool has_blocks(const trace& t) {
  return std::any_of(t.rows.begin(), t.rows.end(), [](const trace_row& r) { return !r.prefix_blocks.empty(); });
}

class workload_builder {
public:
  workload_builder(std::vector<source> sources, const workload_options& options)
      : sources_(std::move(sources)), options_(options), classes_(options) {}

  result<workload> build(string_view name) {
    if (auto ok = classes_.prepare(); !ok) return pass(ok.error());
    if (auto ok = read(); !ok) return pass(ok.error());
    out_.name = name;
    out_.classes = options_.classes;
    out_.prefix_block_tokens = smallest_block();
    for (std::size_t s = 0; s < sources_.size(); ++s)
      if (auto ok = add(sources_[s], std::move(traces_[s])); !ok) return pass(ok.error());
    if (out_.requests.empty()) return fail(errc::reject, "expected a request before the end, found none");
    std::stable_sort(out_.requests.begin(), out_.requests.end(),
        [](const request& a, const request& b) { return a.arrival < b.arrival; });
    return std::move(out_);
  }

private:
  /// How much of a source the run can see.
  std::optional<duration> source_length() const {
    if (!options_.length) return std::nullopt;
    return from_s(std::min(1e9, to_s(*options_.length) * options_.rate_scale));
  }

  duration scaled(duration arrival) const {
    return duration{std::llround(static_cast<double>(arrival.count()) / options_.rate_scale)};
  }

  result<void> read() {
    for (const source& s : sources_) {
      auto t = s.is_synthetic() ? make_synthetic(s, source_length(), options_.seed)
                                : read_file(s, source_length(), options_.seed);
      if (!t) return pass(t.error());
      traces_.push_back(std::move(*t));
    }
    return {};
  }

  std::uint32_t smallest_block() const {
    std::optional<std::uint32_t> smallest;
    for (const trace& t : traces_)
      if (has_blocks(t)) smallest = std::min(smallest.value_or(t.prefix_block_tokens), t.prefix_block_tokens);
    return smallest.value_or(512);
  }

  result<void> add(const source& from, trace&& rows) {
    std::optional<std::uint32_t> one_class;
    if (!from.slo_class.empty()) {
      const auto i = classes_.index(from.slo_class, from.where);
      if (!i) return pass(i.error());
      one_class = *i;
    }
    const std::uint32_t pieces = std::max(1U, rows.prefix_block_tokens / out_.prefix_block_tokens);
    for (std::size_t n = 0; n < rows.rows.size(); ++n) {
      trace_row& row = rows.rows[n];
      request r{scaled(row.arrival), row.prompt_tokens, row.output_tokens, 0, {}};
      if (options_.length && r.arrival >= *options_.length) break;
      const auto slo_class = one_class ? result<std::uint32_t>{*one_class} : classes_.of_row(from, row, n);
      if (!slo_class) return pass(slo_class.error());
      r.slo_class = *slo_class;
      blocks_ += row.prefix_blocks.size() * pieces;
      if (out_.requests.size() >= max_requests || blocks_ > max_prefix_blocks)
        return fail(errc::reject, "{}: expected at most {} requests and {} block ids in all sources, found more",
            from.where, max_requests, max_prefix_blocks);
      r.prefix_blocks = salted(row.prefix_blocks, from.number, pieces);
      row.prefix_blocks = {};
      out_.requests.push_back(std::move(r));
    }
    rows.rows = {};
    return {};
  }

  std::vector<source> sources_;
  const workload_options& options_;
  class_picker classes_;
  std::vector<trace> traces_;
  workload out_;
  std::size_t blocks_{};
};

} // namespace

result<workload> build_workload(string_view sources, const workload_options& options) {
  HFLEX_CHECK(!options.classes.empty() && options.rate_scale > 0);
  auto split = split_sources(sources);
  if (!split) return pass(split.error());
  return workload_builder{std::move(*split), options}.build(sources);
}

result<std::vector<slo_class>> read_classes(const std::string& file) {
  if (file.empty()) return config::default_slo_classes();
  auto read = config::load_slo_classes(file);
  if (!read) return tl::unexpected(config::to_error(read.error()));
  return std::move(*read);
}

} // namespace hflex::sim
