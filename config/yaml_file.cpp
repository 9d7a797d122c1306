#include "config/yaml_file.hpp"
#include <filesystem>
#include <fmt/format.h>
#include <fstream>

namespace hflex::config {

std::optional<std::string> read_file(const std::string& file, fault_list& faults) {
  const origin where{layer::file, file, 0, 0};
  std::error_code ignored;
  if (std::filesystem::is_directory(file, ignored)) {
    faults.add({where, "", "a file", "a folder", ""});
    return std::nullopt;
  }
  std::ifstream stream(file, std::ios::binary);
  std::string text(yaml::limits{}.max_bytes + 1, '\0');
  if (!stream || (!stream.read(text.data(), static_cast<std::streamsize>(text.size())) && stream.bad())) {
    faults.add({where, "", "a file that can be read", "none", ""});
    return std::nullopt;
  }
  text.resize(static_cast<std::size_t>(stream.gcount()));
  return text;
}

std::optional<yaml::node> parse_yaml(const std::string& text, const reading& in) {
  auto tree = yaml::parse(text);
  if (tree) return std::move(*tree);
  in.faults.add({in.at(tree.error().at), "", tree.error().expected, tree.error().found, ""});
  return std::nullopt;
}

std::string folder_of(const std::string& file) {
  const std::string folder = std::filesystem::path{file}.parent_path().string();
  return folder.empty() ? "." : folder;
}

} // namespace hflex::config
