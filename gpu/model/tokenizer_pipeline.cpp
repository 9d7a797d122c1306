#include "gpu/model/tokenizer_pipeline.hpp"
#include "gpu/model/json_file.hpp"
#include "gpu/model/json_view.hpp"
#include "gpu/model/utf8.hpp"
#include <charconv>

namespace hflex::gpu {
namespace {

using nlohmann::json;

constexpr std::size_t max_splits = 16;
constexpr std::size_t max_step_bytes = 64;
/// How much longer a normalizer may make a text. A hostile file could ask for any power otherwise.
constexpr std::size_t max_growth = 16;
constexpr std::size_t max_strip = 16;

/// ByteLevel's own expression (GPT-2's).
constexpr auto byte_level_regex = R"('(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

tl::unexpected<error> unsupported(const char* what, const json& value) {
  const auto type = text_of(member(value, "type"));
  return fail(errc::reject,
      "{}: {} is not supported; BPE tokenizers are, byte-level (GPT-2, Llama 3, Qwen, SmolLM) or SentencePiece's "
      "(Llama 2, Mistral)",
      what, type.empty() ? described(value) : printable(type));
}

/// The steps of a "Sequence", the value itself when it is a single step, none for null.
std::vector<const json*> steps_of(const json& top, const char* list) {
  std::vector<const json*> out;
  if (text_of(member(top, "type")) == "Sequence") {
    for (const auto& item : member(top, list)) out.push_back(&item);
  } else if (!top.is_null()) {
    out.push_back(&top);
  }
  return out;
}

/// {"pattern": {"String": "a"}, "content": "b"}
result<normalizer_step> replacement(const char* where, const json& item) {
  const auto from = text_of(member(member(item, "pattern"), "String"));
  const auto& to = member(item, "content");
  if (from.empty() || from.size() > max_step_bytes || !to.is_string() || text_of(to).size() > max_step_bytes) {
    return fail(errc::reject, "{}: Replace: expected pattern.String of 1 to {} bytes and content of at most {}", where,
        max_step_bytes, max_step_bytes);
  }
  return normalizer_step{normalizer_step::kind::replace, std::string(from), std::string(text_of(to))};
}

class reader {
public:
  explicit reader(const json& root) : root_(root) {}

  result<text_pipeline> run() {
    out_.byte_level = is_byte_level();
    for (const auto step : {&reader::read_normalizer, &reader::read_pre_tokenizer, &reader::read_decoder}) {
      if (auto status = (this->*step)(); !status) return pass(std::move(status.error()));
    }
    return std::move(out_);
  }

private:
  bool is_byte_level() const {
    if (text_of(member(member(root_, "decoder"), "type")) == "ByteLevel") return true;
    for (const auto* item : steps_of(member(root_, "pre_tokenizer"), "pretokenizers")) {
      if (text_of(member(*item, "type")) == "ByteLevel") return true;
    }
    return false;
  }

  result<void> read_normalizer() {
    for (const auto* item : steps_of(member(root_, "normalizer"), "normalizers")) {
      if (item->is_null()) continue;
      if (auto status = read_normalizer_step(*item); !status) return status;
    }
    return {};
  }

  result<void> read_normalizer_step(const json& item) {
    const auto type = text_of(member(item, "type"));
    if (type == "NFC") {
      out_.normalizer.push_back({normalizer_step::kind::compose});
      return {};
    }
    // What the characters of a byte-level text are must not change but for their form: its bytes come back as they
    // were.
    if (out_.byte_level || (type != "Prepend" && type != "Replace")) return unsupported("normalizer", item);
    if (type == "Prepend") {
      const auto text = text_of(member(item, "prepend"));
      if (text.empty() || text.size() > max_step_bytes)
        return fail(errc::reject, "normalizer: Prepend: expected a text of 1 to {} bytes", max_step_bytes);
      out_.normalizer.push_back({normalizer_step::kind::prepend, "", std::string(text)});
      return {};
    }
    auto step = replacement("normalizer", item);
    if (!step) return pass(std::move(step.error()));
    growth_ *= std::max<std::size_t>(1, (step->to.size() + step->from.size() - 1) / step->from.size());
    if (growth_ > max_growth)
      return fail(errc::reject, "normalizer: its steps may make a text more than {} times as long", max_growth);
    out_.normalizer.push_back(std::move(*step));
    return {};
  }

  result<void> read_pre_tokenizer() {
    bool ended = false;
    for (const auto* item : steps_of(member(root_, "pre_tokenizer"), "pretokenizers")) {
      if (ended) return fail(errc::reject, "pre_tokenizer: {} after ByteLevel is not supported", described(*item));
      const auto type = text_of(member(*item, "type"));
      ended = type == "ByteLevel";
      auto status = ended                                     ? read_byte_level(*item)
                    : type == "Split"                         ? read_split(*item)
                    : type == "Digits"                        ? read_digits(*item)
                    : type == "Metaspace" && !out_.byte_level ? read_metaspace(*item)
                                                              : unsupported("pre_tokenizer", *item);
      if (!status) return status;
    }
    if (ended == out_.byte_level) return {};
    return fail(
        errc::reject, "pre_tokenizer: has no ByteLevel, but the decoder has: so no byte-level tokenizer begins");
  }

  result<void> read_byte_level(const json& item) {
    if (is_true(member(item, "add_prefix_space"))) {
      return fail(errc::reject, "pre_tokenizer: ByteLevel: add_prefix_space is not supported");
    }
    const auto& use_regex = member(item, "use_regex"); // older files have none and mean true
    return use_regex.is_null() || is_true(use_regex) ? add_split(byte_level_regex) : result<void>{};
  }

  result<void> read_split(const json& item) {
    const auto& regex = member(member(item, "pattern"), "Regex");
    if (!regex.is_string()) return fail(errc::reject, "pre_tokenizer: Split: expected pattern.Regex");
    if (text_of(member(item, "behavior")) != "Isolated" || is_true(member(item, "invert"))) {
      return fail(errc::reject, "pre_tokenizer: Split: only behavior Isolated without invert is supported");
    }
    return add_split(text_of(regex));
  }

  result<void> read_digits(const json& item) {
    return add_split(is_true(member(item, "individual_digits")) ? R"(\p{N})" : R"(\p{N}+)");
  }

  result<void> add_split(std::string_view pattern) {
    if (out_.splits.size() == max_splits) return fail(errc::reject, "pre_tokenizer: more than {} splits", max_splits);
    auto split = split_regex::compile(pattern);
    if (!split) return fail(errc::reject, "pre_tokenizer: {}", split.error().message);
    out_.splits.push_back(std::move(*split));
    return {};
  }

  /// Older files say add_prefix_space, newer ones prepend_scheme; what neither says is "always" and "cut".
  result<void> read_metaspace(const json& item) {
    if (out_.spaces || !out_.splits.empty())
      return fail(errc::reject, "pre_tokenizer: Metaspace is only supported as the first step");
    metaspace how;
    how.mark = text_of(member(item, "replacement"));
    if (how.mark.empty() || next_utf8(how.mark).bytes != how.mark.size())
      return fail(errc::reject, "pre_tokenizer: Metaspace: replacement: expected one character");
    const auto& scheme = member(item, "prepend_scheme");
    const auto name = scheme.is_null() ? std::string_view("always") : text_of(scheme);
    if (name != "always" && name != "first" && name != "never")
      return fail(errc::reject, "pre_tokenizer: Metaspace: prepend_scheme: expected always, first or never, found {}",
          described(scheme));
    how.prepend = name == "always"  ? metaspace::scheme::always
                  : name == "first" ? metaspace::scheme::first
                                    : metaspace::scheme::never;
    if (member(item, "add_prefix_space") == false) how.prepend = metaspace::scheme::never;
    const auto& cuts = member(item, "split");
    how.cuts = cuts.is_null() || is_true(cuts);
    out_.spaces = std::move(how);
    return {};
  }

  /// ByteLevel; or replacements, then bytes, then one text out of all tokens, then what goes at its start.
  result<void> read_decoder() {
    const auto& top = member(root_, "decoder");
    if (out_.byte_level)
      return text_of(member(top, "type")) == "ByteLevel" ? result<void>{} : unsupported("decoder", top);
    int stage = 0;
    const auto steps = steps_of(top, "decoders");
    for (const auto* item : steps) {
      const auto type = text_of(member(*item, "type"));
      const int place = type == "Replace"        ? 1
                        : type == "ByteFallback" ? 2
                        : type == "Fuse"         ? 3
                        : type == "Strip"        ? 4
                                                 : 0;
      if (place == 0) return unsupported("decoder", *item);
      if (place < stage || (place == stage && place != 1) || (place == 4 && stage != 3))
        return fail(errc::reject, "decoder: {}: expected Replace, ByteFallback, Fuse and Strip in this order", type);
      stage = place;
      if (auto status = read_decoder_step(place, *item); !status) return status;
    }
    if (stage >= 3) return {};
    return fail(errc::reject, "decoder: has neither ByteLevel nor Fuse, so it does not make one text out of tokens");
  }

  result<void> read_decoder_step(int place, const json& item) {
    if (place == 1) {
      auto step = replacement("decoder", item);
      if (!step) return pass(std::move(step.error()));
      if (step->to.size() > step->from.size())
        return fail(errc::reject, "decoder: Replace: content is longer than what it replaces");
      out_.decoded.push_back(std::move(*step));
    } else if (place == 2) {
      out_.decodes_bytes = true;
    } else if (place == 4) {
      const auto& start = member(item, "start");
      const bool known = text_of(member(item, "content")) == " " && member(item, "stop") == 0 &&
                         start.is_number_unsigned() && start.get<std::uint64_t>() <= max_strip;
      if (!known) return fail(errc::reject, "decoder: Strip: expected up to {} blanks at the start only", max_strip);
      out_.strip_blanks = start.get<std::size_t>();
    }
    return {};
  }

  const json& root_;
  text_pipeline out_;
  std::size_t growth_{1};
};

} // namespace

result<text_pipeline> read_pipeline(const json& root) { return reader(root).run(); }

std::optional<unsigned char> byte_of_piece(std::string_view piece) {
  if (piece.size() != 6 || !piece.starts_with("<0x") || piece.back() != '>') return std::nullopt;
  unsigned char value = 0;
  const auto* end = piece.data() + 5;
  const auto read = std::from_chars(piece.data() + 3, end, value, 16);
  return read.ec == std::errc() && read.ptr == end ? std::optional(value) : std::nullopt;
}

std::string decoded_piece(std::string_view piece, const text_pipeline& how) {
  auto text = normalized(piece, how.decoded);
  const auto byte = how.decodes_bytes ? byte_of_piece(text) : std::nullopt;
  return byte ? std::string(1, static_cast<char>(*byte)) : text;
}

} // namespace hflex::gpu
