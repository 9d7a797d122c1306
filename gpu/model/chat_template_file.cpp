// Where a model keeps its chat template, and which id its end of turn has there.
#include "gpu/model/chat_template.hpp"
#include "gpu/model/gguf_tokenizer.hpp"
#include "gpu/model/json_file.hpp"
#include <filesystem>

namespace hflex::gpu {
namespace {

using nlohmann::json;

constexpr std::uint64_t max_template_bytes = 256U << 10U;
constexpr std::uint64_t max_tokenizer_config_bytes = 16U << 20U;
constexpr std::uint64_t max_tokenizer_bytes = 256U << 20U;

/// `chat_template`: a string, or a list of named ones.
std::optional<std::string> default_template(const json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (!value.is_array()) return std::nullopt;
  for (const auto& entry : value) {
    if (!entry.is_object() || entry.value("name", json{}) != "default") continue;
    const auto text = entry.find("template");
    if (text != entry.end() && text->is_string()) return text->get<std::string>();
  }
  return std::nullopt;
}

/// `added_tokens` of tokenizer.json alone: vocabulary and merges are the bulk of the file, and are passed over.
json added_tokens_of(const std::string& dir) {
  const auto text = read_file(dir + "/tokenizer.json", max_tokenizer_bytes);
  if (!text) return {};
  const auto wanted = [](int depth, json::parse_event_t event, json& value) {
    const bool bulk = depth == 1 && event == json::parse_event_t::key && value != "added_tokens";
    return !bulk && depth < 8;
  };
  const auto document = json::parse(*text, wanted, false);
  return document.is_object() ? document.value("added_tokens", json::array()) : json::array();
}

} // namespace

std::optional<std::string> chat_template_of_model(const std::string& dir) {
  if (auto inside = gguf_chat_template(dir)) return inside;
  if (auto own = read_file(dir + "/chat_template.jinja", max_template_bytes)) return std::move(*own);
  const auto config = load_json(dir + "/tokenizer_config.json", max_tokenizer_config_bytes);
  if (!config || !config->is_object()) return std::nullopt;
  const auto found = config->find("chat_template");
  return found == config->end() ? std::nullopt : default_template(*found);
}

std::optional<token_id> end_of_turn_token(const std::string& dir) {
  const auto known = chat_template::recognize(chat_template_of_model(dir));
  if (!known) return std::nullopt;
  for (const auto& token : added_tokens_of(dir)) {
    if (!token.is_object() || token.value("content", json{}) != known->end_of_turn()) continue;
    const auto id = token.find("id");
    if (id != token.end() && id->is_number_unsigned() && id->get<std::uint64_t>() <= INT32_MAX)
      return id->get<token_id>();
  }
  return std::nullopt;
}

} // namespace hflex::gpu
