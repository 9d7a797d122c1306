// Looking into JSON that somebody else wrote without asking thrice for every member. Used by the readers of tokenizer
// files; changes nothing and never throws.
#pragma once
#include <nlohmann/json.hpp>
#include <string_view>

namespace hflex::gpu {

/// The member, or null when the value is no object or has no such member.
inline const nlohmann::json& member(const nlohmann::json& value, const char* key) {
  static const nlohmann::json none;
  if (!value.is_object()) return none;
  const auto at = value.find(key);
  return at == value.end() ? none : *at;
}

/// The string, or nothing when the value is something else.
inline std::string_view text_of(const nlohmann::json& value) {
  const auto* text = value.get_ptr<const std::string*>();
  return text != nullptr ? std::string_view(*text) : std::string_view();
}

inline bool is_true(const nlohmann::json& value) { return value.is_boolean() && value.get<bool>(); }

} // namespace hflex::gpu
