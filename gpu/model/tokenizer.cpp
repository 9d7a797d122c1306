#include "gpu/model/tokenizer.hpp"
#include "gpu/model/added_tokens.hpp"
#include "gpu/model/bpe.hpp"
#include "gpu/model/tokenizer_file.hpp"
#include "gpu/model/utf8.hpp"
#include <unordered_map>

namespace hflex::gpu {
namespace {

std::vector<added_token> composed(std::vector<added_token> tokens, bool compose) {
  for (auto& token : tokens) {
    if (compose && token.normalized) token.content = compose_nfc(token.content);
  }
  return tokens;
}

/// Added tokens are looked for twice: in the text as it came, and (those marked `normalized`) once it is composed.
struct added_token_sets {
  added_token_set raw;
  added_token_set normalized;
  added_token_sets(const std::vector<added_token>& tokens, bool with_special)
      : raw(tokens, [=](const auto& t) { return !t.normalized && (with_special || !t.special); }),
        normalized(tokens, [=](const auto& t) { return t.normalized && (with_special || !t.special); }) {}
};

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

struct tokenizer::state {
  std::vector<std::string> token_bytes;
  std::vector<bool> special; ///< by id
  std::vector<added_token> added;
  added_token_sets all;
  added_token_sets ordinary;
  bool compose;
  std::vector<split_regex> splits;
  bpe merger;
  std::unordered_map<std::string_view, token_id> whole; ///< pieces that are tokens as they stand; keys in token_bytes
  std::vector<token_id> prefix;

  explicit state(tokenizer_parts parts)
      : token_bytes(std::move(parts.token_bytes)), special(token_bytes.size()),
        added(composed(std::move(parts.added), parts.compose)), all(added, true), ordinary(added, false),
        compose(parts.compose), splits(std::move(parts.splits)), merger(parts.byte_tokens, parts.merges),
        prefix(std::move(parts.prefix)) {
    for (const auto& token : added) special[static_cast<std::size_t>(token.id)] = token.special;
    if (!parts.ignore_merges) return;
    whole.reserve(parts.byte_level_tokens.size());
    for (const auto id : parts.byte_level_tokens) whole.emplace(token_bytes[static_cast<std::size_t>(id)], id);
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

  /// Text without added tokens, composed.
  void encode_plain(std::string_view text, std::vector<token_id>& out) const {
    std::vector<std::string_view> pieces{text};
    for (const auto& split : splits) {
      std::vector<std::string_view> finer;
      for (const auto piece : pieces) split.split(piece, finer);
      pieces = std::move(finer);
    }
    for (const auto piece : pieces) {
      const auto token = whole.find(piece);
      if (token != whole.end()) {
        out.push_back(token->second);
      } else {
        merger.encode(piece, out);
      }
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
  if (options.add_bos) out = state_->prefix;
  const auto& sets = options.parse_special ? state_->all : state_->ordinary;
  const auto valid = lossy_utf8(text);
  state::divide(valid, sets.raw, out, [&](std::string_view part) {
    const auto normal = state_->compose ? compose_nfc(part) : std::string(part);
    state::divide(normal, sets.normalized, out, [&](std::string_view plain) { state_->encode_plain(plain, out); });
  });
  return out;
}

std::string tokenizer::decode(std::span<const token_id> tokens, bool skip_special) const {
  std::string bytes;
  for (const auto token : tokens) {
    if (!skip_special || !is_special(token)) bytes += bytes_of(token);
  }
  return lossy_utf8(bytes);
}

std::uint32_t tokenizer::vocab_size() const { return static_cast<std::uint32_t>(state_->token_bytes.size()); }

bool tokenizer::is_special(token_id token) const {
  const auto at = static_cast<std::size_t>(token);
  return token >= 0 && at < state_->special.size() && state_->special[at];
}

std::string_view tokenizer::bytes_of(token_id token) const {
  const auto at = static_cast<std::size_t>(token);
  return token >= 0 && at < state_->token_bytes.size() ? std::string_view(state_->token_bytes[at]) : std::string_view();
}

std::optional<token_id> tokenizer::added_token_id(std::string_view content) const {
  for (const auto& token : state_->added) {
    if (token.content == content) return token.id;
  }
  return std::nullopt;
}

std::string stream_decoder::push(token_id token) {
  std::string out;
  if (skip_special_ && source_->is_special(token)) return out;
  pending_ += source_->bytes_of(token);
  drain(pending_, out);
  return out;
}

std::string stream_decoder::finish() {
  const auto rest = lossy_utf8(pending_);
  pending_.clear();
  return rest;
}

} // namespace hflex::gpu
