// A conversation as the tokens that a model was trained to see it in. Decides which family of chat template a
// checkpoint has, by the markers in its Jinja text, and writes that family's frame itself: no Jinja runs. Called by the
// router (messages of a job) and by model_config (which token ends a turn). Only the frame becomes special tokens; what
// people wrote never does, however it is spelled.
#pragma once
#include "actors/common/request.hpp"
#include "actors/common/result.hpp"
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace hflex::gpu {

class tokenizer;

struct chat_message {
  std::string role; ///< "system", "user" or "assistant"
  std::string content;
  friend bool operator==(const chat_message&, const chat_message&) = default;
};

/// A run of the rendered conversation: one special token by its name, or text that holds none. No two texts follow each
/// other, because tokens may reach across from the frame into a message.
struct chat_piece {
  std::string text;
  bool special{false};
  friend bool operator==(const chat_piece&, const chat_piece&) = default;
};

/// Immutable; any number of threads may use it.
class chat_template {
public:
  /// `jinja` is the template as the checkpoint holds it; nothing when it has none. errc::reject says why it cannot be
  /// used: none, not of a family known here, or one that writes more than is known of that family.
  static result<chat_template> recognize(const std::optional<std::string>& jinja);

  /// The conversation up to where the assistant is to speak, with the system message that the template puts in when
  /// there is none. errc::reject for no messages, an unknown role, a last message that is not the user's, and what the
  /// family forbids.
  result<std::vector<chat_piece>> render(std::span<const chat_message> messages) const;

  /// The same as tokens, with whatever begins a sequence. errc::reject also when the tokenizer lacks a token of the
  /// frame.
  result<std::vector<token_id>> encode(std::span<const chat_message> messages, const tokenizer& words) const;

  std::string_view family() const;      ///< "llama3", "chatml" or "mistral"
  std::string_view end_of_turn() const; ///< the special token that ends what the assistant says

private:
  enum class kind { llama3, chatml, mistral };

  static result<chat_template> recognize_llama3(std::string_view jinja);
  static result<chat_template> recognize_chatml(std::string_view jinja);
  static result<chat_template> recognize_mistral(std::string_view jinja);
  result<void> check(std::span<const chat_message> messages) const;
  std::vector<chat_piece> render_llama3(std::span<const chat_message> messages) const;
  std::vector<chat_piece> render_chatml(std::span<const chat_message> messages) const;
  std::vector<chat_piece> render_mistral(std::span<const chat_message> messages) const;
  std::string content_of(const chat_message& message) const;
  static void encode_text(std::string_view text, const tokenizer& words, std::vector<token_id>& out);
  static std::vector<chat_piece> with_spelled_markers(std::vector<chat_piece> pieces, const tokenizer& words);

  explicit chat_template(kind k) : kind_(k) {}

  kind kind_;
  std::optional<std::string> default_system_; ///< what goes in when the conversation has no system message
  std::string system_preamble_;               ///< llama3: dates in front of every system message
  bool trims_{false};                         ///< contents lose white space at both ends
  bool drops_thoughts_{false};                ///< chatml: what the assistant thought is not repeated
  std::string answer_begins_;                 ///< chatml: what the assistant's answer starts with
  // mistral: what stands around the markers, and where the system message goes.
  std::string before_open_, after_open_, before_close_, before_answer_;
  enum class system_place { none, first_user, last_user } system_place_{system_place::none};
};

/// The template of a Hugging Face directory: chat_template.jinja, else `chat_template` of tokenizer_config.json (its
/// entry "default" where it is a list). Nothing where there is none or the file cannot be read. Blocks on the disk.
std::optional<std::string> chat_template_of_model(const std::string& dir);

/// The id of the token that ends a turn by the directory's template, from tokenizer.json. Nothing when there is no
/// template, none that is known, or no such token. Blocks on the disk.
std::optional<token_id> end_of_turn_token(const std::string& dir);

} // namespace hflex::gpu
