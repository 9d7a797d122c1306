#include "config/reading.hpp"
#include <filesystem>
#include <fmt/format.h>

namespace hflex::config {

std::string describe(const yaml::node& n) {
  switch (n.kind) {
  case yaml::node_kind::nothing:
    return "nothing";
  case yaml::node_kind::list:
    return fmt::format("a list of {}", n.children.size());
  case yaml::node_kind::map:
    return "a section";
  case yaml::node_kind::scalar:
    break;
  }
  return shown(n.text) + (n.quoted ? " in quotes" : "");
}

std::string resolve_path(const std::string& directory, std::string path) {
  if (directory.empty() || path.empty()) return path;
  return (std::filesystem::path{directory} / path).lexically_normal().string(); // an absolute path stays as it is
}

std::string plain_yaml(std::string_view text) {
  constexpr std::string_view harmless = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-";
  const bool plain =
      !text.empty() && text.find_first_not_of(harmless) == text.npos && text != "null" && text.front() != '-';
  if (plain) return std::string{text};
  std::string out = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out + "\"";
}

} // namespace hflex::config
