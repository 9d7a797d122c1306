// How tables of keys are read from a YAML tree into structs: the part of the loader that knows rows, but not which
// rows. Used by config/schema.cpp and by tables of other files (config/rows.hpp).
#pragma once
#include "actors/common/nearest.hpp"
#include "config/fault.hpp"
#include "config/rule.hpp"
#include "config/yaml_tree.hpp"
#include <fmt/format.h>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace hflex::config {

/// Where a reading stands, and what it collects.
struct reading {
  layer from{layer::file};
  std::string source;    ///< as in origin
  std::string directory; ///< relative paths start here; empty = leave them as they are
  fault_list& faults;
  origin_map& origins;

  origin at(yaml::position p) const {
    return from == layer::file ? origin{from, source, p.line, p.column} : origin{from, source, 0, 0};
  }
};

std::string describe(const yaml::node& n); ///< "'text'", "a list of 3", "a section", "nothing"
std::string resolve_path(const std::string& directory, std::string path); ///< relative to `directory`, normalised
std::string plain_yaml(std::string_view text); ///< `text` as a YAML scalar, in quotes where it must be

/// One key of a struct T. Exactly one of (set, read) is there: `set` for scalars, `read` for lists and maps of structs.
template <class T>
struct row {
  std::string_view key; ///< path inside T: "scheduler.max_wait_ms"
  rule accepts;
  std::string_view doc;
  void (*set)(T&, value&&){};
  std::string (*get)(const T&){}; ///< the value as YAML
  void (*read)(reading&, const yaml::node&, const std::string& path, T&){};
  bool required{false};
};

// ---- from a checked value to a field, and back to YAML ----
inline void assign(std::string& field, value&& v) { field = std::move(v.text); }
inline void assign(bool& field, value&& v) { field = v.yes; }
inline void assign(double& field, value&& v) { field = v.real; }
inline void assign(duration& field, value&& v) { field = v.span; }
inline void assign(std::optional<duration>& field, value&& v) { field = v.span; }
inline void assign(std::uint16_t& field, value&& v) { field = static_cast<std::uint16_t>(v.whole); }
inline void assign(std::uint32_t& field, value&& v) { field = static_cast<std::uint32_t>(v.whole); }
inline void assign(std::uint64_t& field, value&& v) { field = v.whole; }
/// Enumerators and words are in the same order.
template <class Enum>
requires std::is_enum_v<Enum>
void assign(Enum& field, value&& v) { field = static_cast<Enum>(v.word); }

inline std::string written(const std::string& field, const rule&) { return plain_yaml(field); }
inline std::string written(bool field, const rule&) { return field ? "true" : "false"; }
inline std::string written(double field, const rule&) { return fmt::format("{}", field); }
inline std::string written(duration field, const rule& r) {
  return fmt::format("{}", static_cast<double>(field.count()) / static_cast<double>(r.in.per_one.count()));
}
inline std::string written(const std::optional<duration>& field, const rule& r) {
  return field ? written(*field, r) : std::string{};
}
inline std::string written(std::uint16_t field, const rule&) { return fmt::format("{}", field); }
inline std::string written(std::uint32_t field, const rule&) { return fmt::format("{}", field); }
inline std::string written(std::uint64_t field, const rule&) { return fmt::format("{}", field); }
template <class Enum>
requires std::is_enum_v<Enum> std::string written(Enum field, const rule& r) {
  return std::string{r.words[static_cast<std::size_t>(field)]};
}

/// Reads a value that must be a scalar. `path` is for people.
template <class T>
void read_scalar(reading& in, const yaml::node& n, const row<T>& r, const std::string& path, T& out) {
  std::optional<value> v;
  if (n.kind == yaml::node_kind::scalar) v = check(r.accepts, n.text, n.quoted);
  if (!v) {
    std::string hint;
    if (r.accepts.type == value_type::word) hint = did_you_mean(n.text, r.accepts.words);
    in.faults.add({in.at(n.at), path, expectation(r.accepts), describe(n), hint});
    return;
  }
  if (r.accepts.type == value_type::path) v->text = resolve_path(in.directory, std::move(v->text));
  r.set(out, std::move(*v));
  in.origins[path] = in.at(n.at);
}

template <class T>
struct table_reader {
  reading& in;
  std::span<const row<T>> rows;
  std::string prefix; ///< path of the struct itself, ending in '.', or empty
  T& out;
  std::set<std::string, std::less<>> present{}; ///< keys of rows that the map has, paths inside T

  const row<T>* find(std::string_view key) const {
    for (const row<T>& r : rows)
      if (r.key == key) return &r;
    return nullptr;
  }

  bool is_section(std::string_view key) const {
    for (const row<T>& r : rows)
      if (r.key.size() > key.size() && r.key.starts_with(key) && r.key[key.size()] == '.') return true;
    return false;
  }

  /// A near sibling, or the same last word elsewhere in the table.
  std::string hint_for(std::string_view section, std::string_view key) const {
    std::vector<std::string_view> paths;
    for (const row<T>& r : rows) {
      paths.push_back(r.key);
      if (const auto dot = r.key.find('.'); section.empty() && dot != r.key.npos) paths.push_back(r.key.substr(0, dot));
    }
    const std::string full = section.empty() ? std::string{key} : fmt::format("{}.{}", section, key);
    if (std::string near = did_you_mean(full, paths); !near.empty()) return near;
    for (const row<T>& r : rows)
      if (const auto dot = r.key.rfind('.'); dot != r.key.npos && r.key.substr(dot + 1) == key)
        return did_you_mean(r.key, {&r.key, 1});
    return {};
  }

  void read_row(const row<T>& r, const yaml::node& n) {
    const std::string path = prefix + std::string{r.key};
    if (r.read)
      r.read(in, n, path, out);
    else
      read_scalar(in, n, r, path, out);
  }

  /// `section` is the path inside T of the map `n`: empty for T itself.
  void read_map(const yaml::node& n, const std::string& section) {
    if (n.kind == yaml::node_kind::nothing) return; // `scheduler:` with every key commented out
    if (n.kind != yaml::node_kind::map) {
      std::string path = prefix + section;
      if (section.empty() && !path.empty()) path.pop_back();
      in.faults.add({in.at(n.at), path, "a section of keys", describe(n), ""});
      return;
    }
    std::map<std::string_view, yaml::position> seen;
    for (const yaml::node& child : n.children) {
      const std::string key = section.empty() ? child.key : section + "." + child.key;
      const bool one_word = child.key.find('.') == std::string::npos;
      const auto [first, is_new] = seen.emplace(child.key, child.key_at);
      if (!is_new) {
        in.faults.add({in.at(child.key_at), prefix + key, "each key once",
            fmt::format("it again after line {}", first->second.line), ""});
      } else if (const row<T>* r = find(key); r != nullptr && one_word) {
        present.insert(key);
        read_row(*r, child);
      } else if (one_word && is_section(key)) {
        read_map(child, key);
      } else {
        const std::string hint = one_word ? hint_for(section, child.key) : "write a.b as b inside the section a";
        in.faults.add({in.at(child.key_at), "", "a known key", shown(prefix + key), hint});
      }
    }
    if (section.empty()) require(n);
  }

  void require(const yaml::node& n) {
    for (const row<T>& r : rows)
      if (r.required && !present.contains(r.key))
        in.faults.add({in.at(n.at), prefix + std::string{r.key}, expectation(r.accepts), "no such key here", ""});
  }
};

template <class T>
void read_table(reading& in, const yaml::node& n, std::span<const row<T>> rows, std::string prefix, T& out) {
  table_reader<T>{in, rows, std::move(prefix), out}.read_map(n, "");
}

/// "{name: a, transport: {shm: true, tcp: true}}": every row that has a value, as a YAML flow map.
template <class T>
std::string written_table(const T& from, std::span<const row<T>> rows) {
  std::string text;
  std::string_view open_section;
  for (const row<T>& r : rows) {
    const std::string v = r.get(from);
    if (v.empty()) continue;
    const auto dot = r.key.find('.');
    const std::string_view section = dot == r.key.npos ? std::string_view{} : r.key.substr(0, dot);
    const bool goes_on = section == open_section;
    if (!goes_on && !open_section.empty()) text += "}";
    if (!text.empty()) text += ", ";
    if (!goes_on && !section.empty()) text += fmt::format("{}: {{", section);
    text += fmt::format("{}: {}", section.empty() ? r.key : r.key.substr(dot + 1), v);
    open_section = section;
  }
  return "{" + text + (open_section.empty() ? "}" : "}}");
}

} // namespace hflex::config
