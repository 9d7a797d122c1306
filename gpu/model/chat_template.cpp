#include "gpu/model/chat_template.hpp"
#include "gpu/model/json_file.hpp"
#include "gpu/model/tokenizer.hpp"
#include <algorithm>
#include <array>
#include <fmt/format.h>

namespace hflex::gpu {
namespace {

constexpr std::string_view start_header = "<|start_header_id|>";
constexpr std::string_view end_header = "<|end_header_id|>";
constexpr std::string_view end_of_turn_llama3 = "<|eot_id|>";
constexpr std::string_view im_start = "<|im_start|>";
constexpr std::string_view im_end = "<|im_end|>";
constexpr std::string_view inst_open = "[INST]";
constexpr std::string_view inst_close = "[/INST]";
constexpr std::string_view bos_llama3 = "<|begin_of_text|>";
constexpr std::string_view bos_mistral = "<s>";
constexpr std::string_view eos_mistral = "</s>";

/// Everything that a frame is made of.
constexpr std::array markers{start_header, end_header, end_of_turn_llama3, im_start, im_end, inst_open, inst_close,
    bos_llama3, bos_mistral, eos_mistral};

constexpr auto known_families =
    "known are Llama 3's (<|start_header_id|>), ChatML (<|im_start|>: Qwen, SmolLM2) and Mistral's ([INST])";

bool holds(std::string_view text, std::string_view part) { return text.find(part) != text.npos; }

/// Templates write line ends as an escape or as they are, depending on how the file was made.
std::string with_newlines(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const bool escape = text.substr(i, 2) == "\\n";
    out += escape ? '\n' : text[i];
    i += escape ? 1 : 0;
  }
  return out;
}

std::string without_spaces(std::string_view text) {
  std::string out;
  std::copy_if(text.begin(), text.end(), std::back_inserter(out), [](char c) { return c != ' '; });
  return out;
}

bool trims_content(std::string_view jinja) {
  const auto dense = without_spaces(jinja);
  return holds(dense, "content']|trim") || holds(dense, "content\"]|trim") || holds(dense, ".content|trim");
}

/// The same where the content of a whole turn is meant, up to its end.
bool trims_turns(std::string_view jinja) {
  const auto dense = without_spaces(jinja);
  const auto to_end = fmt::format("|trim+'{}", im_end);
  return holds(dense, "content']" + to_end) || holds(dense, ".content" + to_end);
}

/// Whether an answer is begun one way or another, but for Qwen3's: nothing unless the caller says false, and none does.
bool thinks_on_condition(std::string_view jinja) {
  constexpr std::string_view name = "enable_thinking";
  constexpr std::string_view harmless = "enable_thinking is defined and enable_thinking is false %}";
  for (auto at = jinja.find(name); at != jinja.npos; at = jinja.find(name, at)) {
    if (!jinja.substr(at).starts_with(harmless)) return true;
    at += harmless.size();
    if (holds(jinja.substr(at, jinja.find("endif", at) - at), "else")) return true;
  }
  return false;
}

/// The text that a template writes between `begin` and `end` where that is one literal: its own words, no expression.
std::optional<std::string> literal_between(std::string_view jinja, std::string_view begin, std::string_view end) {
  std::size_t to = 0;
  for (auto at = jinja.find(begin); at != jinja.npos;) {
    const auto from = at + begin.size();
    at = jinja.find(begin, from);
    if (to < from) to = jinja.find(end, from);
    if (to == jinja.npos) return std::nullopt;
    if (at < to) continue; // one look at each stretch: the time stays linear, whatever the file
    const auto text = jinja.substr(from, to - from);
    if (!text.empty() && text.find_first_of("{}+~") == text.npos) return std::string(text);
  }
  return std::nullopt;
}

/// What Python's str.strip() takes away: Jinja's trim is that.
std::string_view stripped(std::string_view text) {
  static constexpr std::array<std::string_view, 29> spaces{"\t", "\n", "\v", "\f", "\r", "\x1c", "\x1d", "\x1e", "\x1f",
      " ", "\xc2\x85", "\xc2\xa0", "\xe1\x9a\x80", "\xe2\x80\x80", "\xe2\x80\x81", "\xe2\x80\x82", "\xe2\x80\x83",
      "\xe2\x80\x84", "\xe2\x80\x85", "\xe2\x80\x86", "\xe2\x80\x87", "\xe2\x80\x88", "\xe2\x80\x89", "\xe2\x80\x8a",
      "\xe2\x80\xa8", "\xe2\x80\xa9", "\xe2\x80\xaf", "\xe2\x81\x9f", "\xe3\x80\x80"};
  const auto width = [&](auto has) {
    const auto found = std::find_if(spaces.begin(), spaces.end(), has);
    return found == spaces.end() ? std::size_t{0} : found->size();
  };
  while (const auto n = width([&](auto space) { return text.starts_with(space); })) text.remove_prefix(n);
  while (const auto n = width([&](auto space) { return text.ends_with(space); })) text.remove_suffix(n);
  return text;
}

/// Pieces as they are written, neighbouring texts as one.
class piece_writer {
public:
  piece_writer& special(std::string_view token) {
    pieces_.push_back({std::string(token), true});
    return *this;
  }
  piece_writer& text(std::string_view part) {
    if (part.empty()) return *this;
    if (pieces_.empty() || pieces_.back().special) pieces_.push_back({});
    pieces_.back().text += part;
    return *this;
  }
  std::vector<chat_piece> take() { return std::move(pieces_); }

private:
  std::vector<chat_piece> pieces_;
};

bool begins_with_system(std::span<const chat_message> messages) { return messages.front().role == "system"; }

} // namespace

std::string_view chat_template::family() const {
  constexpr std::array<std::string_view, 3> names{"llama3", "chatml", "mistral"};
  return names[static_cast<std::size_t>(kind_)];
}

std::string_view chat_template::end_of_turn() const {
  constexpr std::array<std::string_view, 3> tokens{end_of_turn_llama3, im_end, eos_mistral};
  return tokens[static_cast<std::size_t>(kind_)];
}

result<chat_template> chat_template::recognize(const std::optional<std::string>& jinja) {
  if (!jinja) return fail(errc::reject, "the model has no chat template: submit a prompt instead of messages");
  if (holds(*jinja, start_header)) return recognize_llama3(*jinja);
  if (holds(*jinja, im_start)) return recognize_chatml(*jinja);
  if (holds(*jinja, inst_open)) return recognize_mistral(*jinja);
  return fail(errc::reject, "the model's chat template is of no known family; {}", known_families);
}

result<chat_template> chat_template::recognize_llama3(std::string_view jinja) {
  chat_template out(kind::llama3);
  out.trims_ = trims_content(jinja);
  const std::string header = fmt::format("{}system{}", start_header, end_header);
  const auto text = with_newlines(jinja);
  if (literal_between(text, header + "\n\n", end_of_turn_llama3))
    return fail(errc::reject, "the model's chat template writes a system message of its own, which is not supported");
  constexpr std::string_view cutting = "Cutting Knowledge Date: ";
  if (!holds(text, cutting)) return out;
  // Since 3.1 every conversation has a system message that begins with two dates. Where the template would ask for
  // today's, the one that it falls back to is taken: a prompt is the same tokens on every day.
  const auto knowledge = literal_between(text, cutting, "\n");
  const auto today = literal_between(text, "date_string = \"", "\"");
  if (!knowledge || !today)
    return fail(errc::reject, "the model's chat template begins with dates that cannot be made out");
  out.system_preamble_ = fmt::format("{}{}\nToday Date: {}\n\n", cutting, *knowledge, *today);
  out.default_system_ = "";
  return out;
}

result<chat_template> chat_template::recognize_chatml(std::string_view jinja) {
  for (const auto* more : {"strftime_now", "bos_token", "reasoning_mode"})
    if (holds(jinja, more))
      return fail(errc::reject, "the model's chat template uses {}, which is not supported in ChatML", more);
  if (thinks_on_condition(jinja))
    return fail(errc::reject, "the model's chat template uses enable_thinking in a way that is not supported");
  chat_template out(kind::chatml);
  out.trims_ = trims_turns(jinja);
  out.drops_thoughts_ = holds(jinja, "</think>");
  const auto text = with_newlines(jinja);
  out.default_system_ = literal_between(text, fmt::format("{}system\n", im_start), im_end);
  // Models that always think have their answer begun for them.
  const auto answer = fmt::format("{}assistant\n", im_start);
  if (const auto at = text.rfind(answer); at != text.npos) {
    const auto from = at + answer.size();
    const auto quote = text.find_first_of("'\"", from);
    if (quote != text.npos) out.answer_begins_ = text.substr(from, quote - from);
  }
  return out;
}

result<chat_template> chat_template::recognize_mistral(std::string_view jinja) {
  if (holds(jinja, "[SYSTEM_PROMPT]"))
    return fail(errc::reject, "the model's chat template uses [SYSTEM_PROMPT], which is not supported");
  chat_template out(kind::mistral);
  const auto quoted = [&](std::string_view text) {
    return holds(jinja, fmt::format("'{}", text)) || holds(jinja, fmt::format("\"{}", text));
  };
  out.before_open_ = quoted(" [INST]") ? " " : "";
  out.after_open_ = holds(jinja, "[INST] ") ? " " : "";
  out.before_close_ = quoted(" [/INST]") ? " " : "";
  const auto dense = without_spaces(jinja);
  // Quotes around one space are empty once spaces are gone.
  out.before_answer_ = holds(dense, "''+message['content']") || holds(dense, "\"\"+message[\"content\"]") ? " " : "";
  out.trims_ = trims_content(jinja);
  if (holds(dense, "loop.firstandsystem_message")) out.system_place_ = system_place::first_user;
  if (holds(dense, "loop.lastandsystem_message")) out.system_place_ = system_place::last_user;
  return out;
}

result<void> chat_template::check(std::span<const chat_message> messages) const {
  if (messages.empty()) return fail(errc::reject, "messages: expected at least one");
  for (std::size_t i = 0; i < messages.size(); ++i) {
    const auto& role = messages[i].role;
    if (role != "system" && role != "user" && role != "assistant")
      return fail(
          errc::reject, "message {}: the role is {}; expected system, user or assistant", i + 1, printable(role));
  }
  if (messages.back().role != "user")
    return fail(errc::reject, "the last message is the {}'s; expected the user's", messages.back().role);
  if (kind_ != kind::mistral) return {};
  const bool system = begins_with_system(messages);
  if (system && system_place_ == system_place::none)
    return fail(errc::reject, "message 1: the model's chat template takes no system message");
  for (std::size_t i = system ? 1 : 0; i < messages.size(); ++i) {
    const auto* expected = (i - (system ? 1 : 0)) % 2 == 0 ? "user" : "assistant";
    if (messages[i].role != expected)
      return fail(errc::reject, "message {}: the role is '{}'; the model's chat template expects {} in turn", i + 1,
          messages[i].role, expected);
  }
  return {};
}

std::string chat_template::content_of(const chat_message& message) const {
  std::string_view text = message.content;
  if (drops_thoughts_ && message.role == "assistant") {
    constexpr std::string_view end = "</think>";
    if (const auto at = text.rfind(end); at != text.npos) {
      text.remove_prefix(at + end.size());
      text.remove_prefix(std::min(text.find_first_not_of('\n'), text.size()));
    }
  }
  return std::string(trims_ ? stripped(text) : text);
}

std::vector<chat_piece> chat_template::render_llama3(std::span<const chat_message> messages) const {
  piece_writer out;
  out.special(bos_llama3);
  const auto turn = [&](std::string_view role) -> piece_writer& {
    return out.special(start_header).text(role).special(end_header).text("\n\n");
  };
  if (begins_with_system(messages)) {
    turn("system").text(system_preamble_).text(content_of(messages.front())).special(end_of_turn_llama3);
    messages = messages.subspan(1);
  } else if (default_system_) {
    turn("system").text(system_preamble_).text(*default_system_).special(end_of_turn_llama3);
  }
  for (const auto& m : messages) turn(m.role).text(content_of(m)).special(end_of_turn_llama3);
  turn("assistant");
  return out.take();
}

std::vector<chat_piece> chat_template::render_chatml(std::span<const chat_message> messages) const {
  piece_writer out;
  const auto turn = [&](std::string_view role, std::string_view content) {
    out.special(im_start).text(role).text("\n").text(content).special(im_end).text("\n");
  };
  if (!begins_with_system(messages) && default_system_) turn("system", *default_system_);
  for (const auto& m : messages) turn(m.role, content_of(m));
  out.special(im_start).text("assistant\n").text(answer_begins_);
  return out.take();
}

std::vector<chat_piece> chat_template::render_mistral(std::span<const chat_message> messages) const {
  std::string system;
  if (begins_with_system(messages)) {
    system = messages.front().content + "\n\n";
    messages = messages.subspan(1);
  }
  piece_writer out;
  out.special(bos_mistral);
  const std::size_t place = system_place_ == system_place::last_user ? messages.size() - 1 : 0;
  for (std::size_t i = 0; i < messages.size(); ++i) {
    const auto& m = messages[i];
    if (m.role == "assistant") {
      out.text(before_answer_).text(content_of(m)).special(eos_mistral);
      continue;
    }
    out.text(before_open_).special(inst_open).text(after_open_);
    if (i == place) out.text(system);
    out.text(m.content).text(before_close_).special(inst_close);
  }
  return out.take();
}

result<std::vector<chat_piece>> chat_template::render(std::span<const chat_message> messages) const {
  if (auto ok = check(messages); !ok) return pass(ok.error());
  switch (kind_) {
  case kind::llama3:
    return render_llama3(messages);
  case kind::chatml:
    return render_chatml(messages);
  case kind::mistral:
    return render_mistral(messages);
  }
  return fail(errc::fatal, "a family without a frame");
}

/// Tokenizer files may list a marker among their ordinary tokens, which are found in any text. Cut inside, it is none.
void chat_template::encode_text(std::string_view text, const tokenizer& words, std::vector<token_id>& out) {
  struct unsafe_marker {
    std::string_view text;
    std::size_t next{}; ///< where it stands next; each text is searched once for each marker
  };
  std::vector<unsafe_marker> unsafe;
  for (const auto marker : markers) {
    const auto id = words.added_token_id(marker);
    if (id && !words.is_special(*id)) unsafe.push_back({marker, text.find(marker)});
  }
  for (std::size_t begin = 0; begin < text.size();) {
    std::size_t end = text.size();
    for (auto& marker : unsafe) {
      if (marker.next < begin) marker.next = text.find(marker.text, begin);
      if (marker.next != text.npos) end = std::min(end, marker.next + 1);
    }
    const encode_options as_text{.add_bos = false, .parse_special = false, .continues = !out.empty()};
    const auto ids = words.encode(text.substr(begin, end - begin), as_text);
    out.insert(out.end(), ids.begin(), ids.end());
    begin = end;
  }
}

/// Mistral's first vocabularies and those of Llama 2 have no token for [INST]: there the frame spells it as text.
std::vector<chat_piece> chat_template::with_spelled_markers(std::vector<chat_piece> pieces, const tokenizer& words) {
  piece_writer out;
  for (const auto& piece : pieces) {
    const bool spelled =
        piece.special && (piece.text == inst_open || piece.text == inst_close) && !words.added_token_id(piece.text);
    if (piece.special && !spelled)
      out.special(piece.text);
    else
      out.text(piece.text);
  }
  return out.take();
}

result<std::vector<token_id>> chat_template::encode(
    std::span<const chat_message> messages, const tokenizer& words) const {
  auto pieces = render(messages);
  if (!pieces) return pass(pieces.error());
  std::vector<token_id> out;
  for (const auto& piece : with_spelled_markers(std::move(*pieces), words)) {
    if (!piece.special) {
      encode_text(piece.text, words, out);
      continue;
    }
    const auto id = words.added_token_id(piece.text);
    if (!id)
      return fail(errc::reject, "the model's tokenizer has no token {}, which its chat template needs", piece.text);
    out.push_back(*id);
  }
  return out;
}

} // namespace hflex::gpu
