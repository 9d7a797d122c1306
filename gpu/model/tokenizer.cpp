#include "gpu/model/tokenizer.hpp"
#include "gpu/model/added_tokens.hpp"
#include "gpu/model/bpe.hpp"
#include "gpu/model/tokenizer_file.hpp"
#include "gpu/model/utf8.hpp"
#include <algorithm>

namespace hflex::gpu {
namespace {

/// As they are looked for: those marked `normalized` in normalized text.
std::vector<added_token> as_found(std::vector<added_token> tokens, std::span<const normalizer_step> steps) {
  for (auto& token : tokens) {
    if (token.normalized) token.content = normalized(token.content, steps);
  }
  std::erase_if(tokens, [](const auto& t) { return t.content.empty(); });
  return tokens;
}

/// Moves the valid text at the start of `bytes` to `out`, with U+FFFD for what can not be text, and leaves in `bytes`
/// what may still become a character.
void drain(std::string& bytes, std::string& out) {
  std::string_view rest = bytes;
  while (!rest.empty()) {
    const auto step = next_utf8(rest);
    if (step.what == utf8_step::kind::incomplete) break;
    out += step.what == utf8_step::kind::character ? rest.substr(0, step.bytes) : replacement_character;
    rest.remove_prefix(step.bytes);
  }
  bytes.erase(0, bytes.size() - rest.size());
}

} // namespace

/// Added tokens are looked for twice: in the text as it came, and (those marked `normalized`) once it is normalized.
struct added_token_sets {
  added_token_set raw;
  added_token_set normalized;
  added_token_sets(const std::vector<added_token>& tokens, bool with_special)
      : raw(tokens, [=](const auto& t) { return !t.normalized && (with_special || !t.special); }),
        normalized(tokens, [=](const auto& t) { return t.normalized && (with_special || !t.special); }) {}
};

struct tokenizer::state {
  tokenizer_parts parts;
  std::vector<bool> special; ///< by id
  added_token_sets all;
  added_token_sets ordinary;
  bpe merger;

  explicit state(tokenizer_parts given)
      : parts(std::move(given)), special(parts.token_bytes.size()),
        all(as_found(parts.added, parts.text.normalizer), true),
        ordinary(as_found(parts.added, parts.text.normalizer), false), merger(parts.merges) {
    for (const auto& token : parts.added) special[static_cast<std::size_t>(token.id)] = token.special;
    std::vector<bpe_merge>().swap(parts.merges); // the merger has them in another form
  }

  /// Calls `on_text` for what lies between the tokens of `set`, and appends the tokens.
  template <class OnText>
  static void divide(std::string_view text, const added_token_set& set, std::vector<token_id>& out, OnText on_text) {
    std::size_t done = 0;
    while (const auto hit = set.find(text, done)) {
      if (hit->begin > done) on_text(text.substr(done, hit->begin - done));
      out.push_back(hit->id);
      done = hit->begin + hit->bytes;
    }
    if (done < text.size()) on_text(text.substr(done));
  }

  /// Text without added tokens, normalized. `at_start`: nothing stands before it.
  void encode_plain(std::string_view text, bool at_start, std::vector<token_id>& out) const {
    const auto& spaces = parts.text.spaces;
    const auto with_marks = spaces ? marked(text, *spaces, at_start) : std::string();
    std::vector<std::string_view> pieces;
    if (spaces && spaces->cuts)
      cut_at_marks(with_marks, spaces->mark, pieces);
    else
      pieces.push_back(spaces ? std::string_view(with_marks) : text);
    for (const auto& split : parts.text.splits) {
      std::vector<std::string_view> finer;
      for (const auto piece : pieces) split.split(piece, finer);
      pieces = std::move(finer);
    }
    std::vector<token_id> symbols;
    for (const auto piece : pieces) {
      const auto token = parts.whole.find(piece);
      if (token != parts.whole.end()) {
        out.push_back(token->second);
        continue;
      }
      symbols.clear();
      parts.letters.spell(piece, symbols);
      merger.encode(symbols, out);
    }
  }
};

tokenizer::tokenizer(std::unique_ptr<const state> s) : state_(std::move(s)) {}
tokenizer::~tokenizer() = default;

result<std::shared_ptr<const tokenizer>> tokenizer::load(const std::string& model) {
  return load_tokenizer_parts(model).map([](tokenizer_parts&& parts) {
    return std::shared_ptr<const tokenizer>(new tokenizer(std::make_unique<const state>(std::move(parts))));
  });
}

result<std::shared_ptr<const tokenizer>> tokenizer::parse(std::string_view text, const std::string& source) {
  return parse_tokenizer(text, source).map([](tokenizer_parts&& parts) {
    return std::shared_ptr<const tokenizer>(new tokenizer(std::make_unique<const state>(std::move(parts))));
  });
}

std::vector<token_id> tokenizer::encode(std::string_view text, encode_options options) const {
  std::vector<token_id> out;
  if (options.add_bos) out = state_->parts.prefix;
  const auto& sets = options.parse_special ? state_->all : state_->ordinary;
  const auto valid = lossy_utf8(text);
  state::divide(valid, sets.raw, out, [&](std::string_view part) {
    const bool first = part.data() == valid.data() && !options.continues;
    const auto normal = normalized(part, state_->parts.text.normalizer);
    state::divide(normal, sets.normalized, out,
        [&](std::string_view plain) { state_->encode_plain(plain, first && plain.data() == normal.data(), out); });
  });
  return out;
}

std::string tokenizer::decode(std::span<const token_id> tokens, bool skip_special) const {
  std::string bytes;
  for (const auto token : tokens) {
    if (!skip_special || !is_special(token)) bytes += bytes_of(token);
  }
  const auto blanks = std::min(bytes.find_first_not_of(' '), bytes.size());
  return lossy_utf8(std::string_view(bytes).substr(std::min(blanks, strip_blanks())));
}

std::size_t tokenizer::strip_blanks() const { return state_->parts.text.strip_blanks; }

std::uint32_t tokenizer::vocab_size() const { return static_cast<std::uint32_t>(state_->parts.token_bytes.size()); }

bool tokenizer::is_special(token_id token) const {
  const auto at = static_cast<std::size_t>(token);
  return token >= 0 && at < state_->special.size() && state_->special[at];
}

std::string_view tokenizer::bytes_of(token_id token) const {
  const auto at = static_cast<std::size_t>(token);
  return token >= 0 && at < state_->parts.token_bytes.size() ? std::string_view(state_->parts.token_bytes[at])
                                                             : std::string_view();
}

std::optional<token_id> tokenizer::added_token_id(std::string_view content) const {
  for (const auto& token : state_->parts.added) {
    if (token.content == content) return token.id;
  }
  return std::nullopt;
}

std::string stream_decoder::push(token_id token) {
  std::string out;
  if (skip_special_ && source_->is_special(token)) return out;
  pending_ += source_->bytes_of(token);
  drain(pending_, out);
  std::size_t blanks = 0;
  for (; !started_ && blanks < out.size(); ++blanks) {
    started_ = out[blanks] != ' ' || stripped_ == source_->strip_blanks();
    if (started_) break;
    ++stripped_;
  }
  return out.substr(blanks);
}

std::string stream_decoder::finish() {
  auto rest = lossy_utf8(pending_);
  pending_.clear();
  stripped_ = 0;
  started_ = false;
  return rest;
}

} // namespace hflex::gpu
