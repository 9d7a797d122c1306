// Text to token ids and back: BPE, byte-level or SentencePiece's, as Hugging Face's tokenizer.json describes it, id for
// id. Called by the router (prompts, streamed text) and by tools. Chat templates are not its business.
// Known differences, all of text that hardly occurs: NFC orders combining marks by the installed utf8proc's Unicode,
// Hugging Face by an older one that lacks some of them; an added token that NFC changes decodes as the file spells it;
// and of byte tokens in a row that are not UTF-8 altogether, Hugging Face makes one U+FFFD each, whereas here the
// characters among them are kept, so that a stream can show each as soon as it is complete.
#pragma once
#include "actors/common/request.hpp"
#include "actors/common/result.hpp"
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace hflex::gpu {

struct encode_options {
  bool add_bos{true};        ///< put before the text what the file's template puts there (often bos, often nothing)
  bool parse_special{false}; ///< text that spells a special token becomes it; leave off for text that strangers wrote
  bool continues{false};     ///< other text stands before this one: no blank that only the first word gets
};

/// Immutable and thread-safe.
class tokenizer {
public:
  /// Reads `model`/tokenizer.json, or the tokenizer inside a GGUF file; blocks on the disk. errc::reject says what is
  /// wrong or not supported (see tokenizer_file.hpp).
  static result<std::shared_ptr<const tokenizer>> load(const std::string& model);
  /// The same from the text of the file; `source` is named in errors.
  static result<std::shared_ptr<const tokenizer>> parse(std::string_view text, const std::string& source);

  /// Any bytes: what is not UTF-8 is read as U+FFFD, the way lossy decoding would have handed it to Hugging Face. With
  /// parse_special off, no special token comes out but those that add_bos puts in front. Bytes that the vocabulary has
  /// no token for (control characters in some) are left out, as Hugging Face does. Never fails; O(n log n).
  std::vector<token_id> encode(std::string_view text, encode_options options = {}) const;

  /// Always valid UTF-8: bytes that do not add up to a character become U+FFFD. Ids that no token has yield nothing.
  std::string decode(std::span<const token_id> tokens, bool skip_special = true) const;

  /// One past the largest id: a model must have at least so many embeddings.
  std::uint32_t vocab_size() const;
  bool is_special(token_id token) const;
  /// So many blanks at the start of a decoded text are not part of it: SentencePiece puts one before every text.
  std::size_t strip_blanks() const;
  /// The bytes that a token stands for: often not valid UTF-8 alone; empty for an id that no token has.
  std::string_view bytes_of(token_id token) const;
  /// The id of an added token ("<|end_of_text|>"), if there is one.
  std::optional<token_id> added_token_id(std::string_view content) const;

  ~tokenizer();

private:
  struct state;
  explicit tokenizer(std::unique_ptr<const state> s);
  std::unique_ptr<const state> state_;
};

/// Turns a stream of tokens into text that never ends inside a character. push() by push() and finish() together give
/// exactly what decode() gives for all tokens. One stream, one decoder; not for several threads at a time.
class stream_decoder {
public:
  explicit stream_decoder(std::shared_ptr<const tokenizer> source, bool skip_special = true)
      : source_(std::move(source)), skip_special_(skip_special) {}
  /// The text that is complete with this token; often empty inside a character of several bytes.
  std::string push(token_id token);
  /// What remains at the end: nothing, or U+FFFD for a character that never was completed. The decoder starts anew.
  std::string finish();

private:
  std::shared_ptr<const tokenizer> source_;
  bool skip_special_;
  std::string pending_; ///< the first bytes of a character: at most 3 between calls
  std::size_t stripped_{};
  bool started_{false}; ///< something other than what is stripped has been shown
};

} // namespace hflex::gpu
