#include "config/loader.hpp"
#include "actors/common/nearest.hpp"
#include "config/schema.hpp"
#include "config/validate.hpp"
#include "config/yaml_file.hpp"
#include <fmt/format.h>

namespace hflex::config {

namespace {

void read_environment(const sources& from, fault_list& faults, loaded_config& out) {
  std::vector<std::string_view> names;
  for (const key_info& k : keys()) names.push_back(k.environment);
  for (const auto& [variable, text] : from.environment) {
    reading in{layer::environment, variable, "", faults, out.origins};
    bool known = false;
    for (const key_info& k : keys()) {
      if (k.environment != variable) continue;
      read_key(in, k.key, text, out.config);
      known = true;
    }
    if (known || !variable.starts_with("HFLEX_")) continue;
    // Flags of single commands have variables too, and container platforms make up their own: only near misses are
    // faults.
    if (const auto near = nearest_word(variable, names); !near.empty() && edit_distance(variable, near) <= 2)
      faults.add({in.at({}), "", "a known variable", shown(variable), fmt::format("did you mean '{}'?", near)});
  }
}

void read_flags(const sources& from, fault_list& faults, loaded_config& out) {
  for (const flag_value& f : from.flags) {
    reading in{layer::flag, f.flag, "", faults, out.origins};
    bool known = false;
    for (const key_info& k : keys()) known = known || k.key == f.key;
    if (known)
      read_key(in, f.key, f.text, out.config);
    else
      faults.add({in.at({}), "", "a known key", shown(f.key), ""});
  }
}

/// Classes are given in place or in a file; the layer that wins over the other one decides, within one layer it is a
/// fault.
void read_classes(fault_list& faults, loaded_config& out) {
  slo_config& slo = out.config.slo;
  const auto of_file = out.origins.find("slo.classes_file");
  const auto in_place = out.origins.find("slo.classes");
  if (slo.classes_file.empty() || of_file == out.origins.end()) return;
  if (in_place != out.origins.end() && in_place->second.from == of_file->second.from) {
    faults.add({of_file->second, "slo.classes_file", "either slo.classes_file or slo.classes", "both", ""});
    return;
  }
  if (in_place != out.origins.end() && in_place->second.from > of_file->second.from) {
    slo.classes_file.clear();
    return;
  }
  auto classes = load_slo_classes(slo.classes_file);
  if (classes) {
    slo.classes = std::move(*classes);
    return;
  }
  slo.classes.clear(); // which there are is not known
  for (fault& f : classes.error()) {
    if (f.where.line == 0) f.hint = fmt::format("named in {}", to_string(of_file->second));
    faults.add(std::move(f));
  }
}

void read_profile(fault_list& faults, loaded_config& out) {
  const auto named = out.origins.find("instance.profile");
  if (out.config.instance.profile.empty() || named == out.origins.end()) return;
  auto profile = load_profile(out.config.instance.profile);
  if (profile) {
    out.config.instance.step_time = profile->step_time;
    return;
  }
  for (fault& f : profile.error()) {
    if (f.where.line == 0) f.hint = fmt::format("named in {}", to_string(named->second));
    faults.add(std::move(f));
  }
}

enum class file_state : std::uint8_t { read, unreadable };

load_result finish(const sources& from, fault_list& faults, loaded_config out, file_state file) {
  read_environment(from, faults, out);
  read_flags(from, faults, out);
  read_classes(faults, out);
  read_profile(faults, out);
  // What a file that nobody could read does to rules between values would only be noise.
  if (file == file_state::read) check_together(out, from.policies, faults);
  if (!faults.empty()) return tl::unexpected(faults.take());
  if (out.config.fleet.empty()) out.config.fleet = default_fleet(out.config.mode);
  return out;
}

} // namespace

load_result read_config(const std::string& text, const sources& from) {
  fault_list faults;
  loaded_config out;
  reading in{layer::file, from.file, folder_of(from.file), faults, out.origins};
  const auto tree = parse_yaml(text, in);
  if (tree) read_cluster(in, *tree, out.config);
  return finish(from, faults, std::move(out), tree ? file_state::read : file_state::unreadable);
}

load_result load_config(const sources& from) {
  fault_list faults;
  if (from.file.empty()) return finish(from, faults, {}, file_state::read);
  if (const auto text = read_file(from.file, faults)) return read_config(*text, from);
  return finish(from, faults, {}, file_state::unreadable);
}

load_result load_config(const std::string& file) {
  sources from;
  from.file = file;
  return load_config(from);
}

tl::expected<std::vector<slo_class>, std::vector<fault>> load_slo_classes(const std::string& file) {
  fault_list faults;
  origin_map origins;
  std::vector<slo_class> classes;
  reading in{layer::file, file, folder_of(file), faults, origins};
  if (const auto text = read_file(file, faults))
    if (const auto tree = parse_yaml(*text, in)) read_class_file(in, *tree, classes);
  if (!faults.empty()) return tl::unexpected(faults.take());
  return classes;
}

tl::expected<step_profile, std::vector<fault>> load_profile(const std::string& file) {
  fault_list faults;
  origin_map origins;
  step_profile profile;
  reading in{layer::file, file, folder_of(file), faults, origins};
  if (const auto text = read_file(file, faults))
    if (const auto tree = parse_yaml(*text, in)) read_profile_file(in, *tree, profile);
  if (!faults.empty()) return tl::unexpected(faults.take());
  return profile;
}

std::string print_config(const loaded_config& from) {
  std::string text, open_section;
  for (std::size_t i = 0; i < keys().size(); ++i) {
    const key_info& k = keys()[i];
    const std::string value = value_of(from.config, i);
    if (value.empty()) continue; // slo.classes when they come from a file
    const auto dot = k.key.find('.');
    const std::string section{dot == k.key.npos ? std::string_view{} : k.key.substr(0, dot)};
    if (section != open_section && !section.empty()) text += fmt::format("{}:\n", section);
    open_section = section;
    const std::string_view indent = section.empty() ? "" : "  ";
    const auto set = from.origins.find(k.key);
    const std::string where = to_string(set == from.origins.end() ? origin{} : set->second);
    text += fmt::format("{0}# {1} [{2}; {3}]\n{0}{4}: {5} # {6}\n", indent, k.doc, k.expected, k.environment,
        section.empty() ? k.key : k.key.substr(dot + 1), value, where);
  }
  return text;
}

error to_error(const std::vector<fault>& faults) {
  std::string text = to_string(faults);
  if (!text.empty()) text.pop_back();
  return {errc::reject, std::move(text)};
}

} // namespace hflex::config
