#include "tools/cli/prompt_file.hpp"
#include "actors/common/nearest.hpp"
#include "tools/cli/terminal.hpp"
#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <fstream>
#include <iostream>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>

namespace hflex::cli {

namespace {

using nlohmann::json;

constexpr double day_ms = 86'400'000;

std::optional<double> number_in(const json& v, double above_or_at, double most) {
  if (!v.is_number()) return std::nullopt;
  const auto n = v.get<double>();
  return n >= above_or_at && n <= most ? std::optional{n} : std::nullopt;
}

std::optional<double> positive_number(const json& v, double most) {
  return number_in(v, std::numeric_limits<double>::min(), most);
}

std::optional<std::uint64_t> whole_in(const json& v, std::uint64_t least, std::uint64_t most) {
  if (!v.is_number_unsigned()) return std::nullopt;
  const auto n = v.get<std::uint64_t>();
  return n >= least && n <= most ? std::optional{n} : std::nullopt;
}

std::optional<std::string> some_text(const json& v) {
  if (!v.is_string() || v.get_ref<const std::string&>().empty()) return std::nullopt;
  return v.get<std::string>();
}

/// A list of {"role", "content"}; anything else in it is a mistake.
std::optional<std::vector<chat_turn>> conversation(const json& v) {
  if (!v.is_array() || v.empty()) return std::nullopt;
  std::vector<chat_turn> out;
  for (const json& turn : v) {
    if (!turn.is_object() || turn.size() != 2 || !turn.contains("role") || !turn.contains("content"))
      return std::nullopt;
    const auto& role = turn["role"];
    if ((role != "system" && role != "user" && role != "assistant") || !turn["content"].is_string())
      return std::nullopt;
    out.push_back({role.get<std::string>(), turn["content"].get<std::string>()});
  }
  return out;
}

/// One key: what it may be, and how it is taken. `take` says whether the value was right.
struct prompt_key {
  std::string_view name;
  std::string_view expected;
  bool (*take)(const json& value, prompt_line& out);
};

template <class Field, class Value>
bool put(Field& field, Value&& value) {
  if (!value) return false;
  field = static_cast<typename Field::value_type>(*std::forward<Value>(value));
  return true;
}

const std::array<prompt_key, 10>& prompt_keys() {
  static const std::array<prompt_key, 10> keys{{
      {"prompt", "text that is not empty",
          [](const json& v, prompt_line& out) {
            const auto text = some_text(v);
            if (text) out.prompt = *text;
            return text.has_value();
          }},
      {"messages", R"(a list of {"role": "system", "user" or "assistant", "content": text})",
          [](const json& v, prompt_line& out) {
            auto turns = conversation(v);
            if (turns) out.messages = std::move(*turns);
            return turns.has_value();
          }},
      {"slo", "the name of an SLO class", [](const json& v, prompt_line& out) { return put(out.slo, some_text(v)); }},
      {"max_tokens", "a whole number from 1 to 1000000",
          [](const json& v, prompt_line& out) { return put(out.max_tokens, whole_in(v, 1, 1'000'000)); }},
      {"temperature", "a number from 0 to 10",
          [](const json& v, prompt_line& out) { return put(out.temperature, number_in(v, 0, 10)); }},
      {"top_p", "a number above 0, at most 1",
          [](const json& v, prompt_line& out) { return put(out.top_p, positive_number(v, 1)); }},
      {"seed", "a whole number from 0 to 18446744073709551615",
          [](const json& v, prompt_line& out) { return put(out.seed, whole_in(v, 0, UINT64_MAX)); }},
      {"ttft_ms", "a number above 0, at most 86400000",
          [](const json& v, prompt_line& out) { return put(out.ttft_ms, positive_number(v, day_ms)); }},
      {"tpot_ms", "a number above 0, at most 86400000",
          [](const json& v, prompt_line& out) { return put(out.tpot_ms, positive_number(v, day_ms)); }},
      {"ignore_eos", "true or false",
          [](const json& v, prompt_line& out) {
            if (v.is_boolean()) out.ignore_eos = v.get<bool>();
            return v.is_boolean();
          }},
  }};
  return keys;
}

/// Never a container's content: it can be nested a million deep, and printing recurses.
std::string shown(const json& v) {
  if (v.is_structured()) return v.is_array() ? "a list" : "an object";
  return shorten(one_line(v.dump(-1, ' ', false, json::error_handler_t::replace)), 60);
}

/// Collects one line's faults; each message starts with the place.
struct line_reader {
  std::string place;
  std::vector<std::string>& faults;

  template <class... Ts>
  void fault(fmt::format_string<Ts...> text, Ts&&... xs) {
    faults.push_back(place + ": " + fmt::format(text, std::forward<Ts>(xs)...));
  }

  std::optional<json> parse(const std::string& line) {
    // JSON lets a key repeat, and the parser would keep the last one silently. The line's own keys are at depth 1,
    // those of a message at depth 3; what lies deeper has no place and is not even stored.
    constexpr int deepest = 3;
    std::array<std::set<std::string>, deepest + 1> seen;
    const auto watch = [&](int depth, json::parse_event_t event, json& parsed) {
      if (event == json::parse_event_t::object_start && depth < deepest)
        seen[static_cast<std::size_t>(depth) + 1].clear();
      if (event == json::parse_event_t::key && depth <= deepest &&
          !seen[static_cast<std::size_t>(depth)].insert(parsed.get<std::string>()).second)
        fault("expected each key once, found '{}' again", one_line(parsed.get<std::string>()));
      return depth <= deepest;
    };
    try {
      json document = json::parse(line, watch);
      if (document.is_object()) return document;
      fault("expected a JSON object like {}, found {}", R"({"prompt": "..."})", shown(document));
    } catch (const json::parse_error& e) {
      const bool plain_text = line.find_first_of("{[") != line.find_first_not_of(" \t");
      if (plain_text)
        fault("expected a JSON object like {}, found plain text", R"({"prompt": "..."})");
      else
        fault("expected JSON, found a mistake at column {}", e.byte);
    }
    return std::nullopt;
  }

  prompt_line read(const std::string& line) {
    prompt_line out;
    const std::optional<json> document = parse(line);
    if (!document) return out;
    std::vector<std::string_view> names;
    for (const prompt_key& k : prompt_keys()) names.push_back(k.name);
    for (const auto& [name, value] : document->items()) {
      const auto key = std::find_if(
          prompt_keys().begin(), prompt_keys().end(), [&n = name](const prompt_key& k) { return k.name == n; });
      if (key == prompt_keys().end()) {
        const std::string near = did_you_mean(name, names);
        fault("expected one of the keys {}, found '{}'{}", fmt::join(names, ", "), shorten(one_line(name), 60),
            near.empty() ? near : " (" + near + ")");
      } else if (!key->take(value, out)) {
        fault("{}: expected {}, found {}", key->name, key->expected, shown(value));
      }
    }
    const bool prompt = document->contains("prompt");
    const bool messages = document->contains("messages");
    if (!prompt && !messages) fault("expected the key prompt or messages, found none");
    if (prompt && messages) fault("expected the key prompt or messages, found both");
    return out;
  }
};

/// Reads one line without its end. False at the end of the stream. A longer line than the bound is left where it is.
bool next_line(std::istream& in, std::string& line, std::size_t bound, bool& too_long) {
  line.clear();
  too_long = false;
  for (int c = in.get(); c != std::istream::traits_type::eof(); c = in.get()) {
    if (c == '\n') return true;
    if (line.size() == bound) {
      too_long = true;
      return true;
    }
    line += static_cast<char>(c);
  }
  return !line.empty();
}

} // namespace

prompt_result read_prompts(std::istream& in, const std::string& name, const prompt_limits& limits) {
  std::vector<prompt_line> prompts;
  std::vector<std::string> faults;
  std::string line;
  bool too_long = false;
  for (std::uint64_t number = 1; next_line(in, line, limits.max_line_bytes, too_long); ++number) {
    line_reader reader{fmt::format("{}:{}", name, number), faults};
    if (too_long) {
      reader.fault("expected at most {} bytes on a line, found more; not reading on", limits.max_line_bytes);
      break;
    }
    if (line.find_first_not_of(" \t\r") == line.npos) continue;
    if (prompts.size() == limits.max_prompts) {
      reader.fault("expected at most {} prompts, found more; not reading on", limits.max_prompts);
      break;
    }
    prompts.push_back(reader.read(line));
    if (faults.size() >= limits.max_faults) {
      reader.fault("expected fewer faults, found {}; not reading on", faults.size());
      break;
    }
  }
  if (in.bad()) faults.push_back(fmt::format("{}: expected a file that can be read to its end", name));
  if (prompts.empty() && faults.empty())
    faults.push_back(fmt::format("{}: expected at least one prompt, found none", name));
  if (!faults.empty()) return tl::unexpected(std::move(faults));
  return prompts;
}

prompt_result read_prompt_file(const std::string& path, const prompt_limits& limits) {
  if (path == "-") return read_prompts(std::cin, "stdin", limits);
  std::error_code ignored;
  const bool folder = std::filesystem::is_directory(path, ignored);
  std::ifstream file(path, std::ios::binary);
  if (folder || !file)
    return tl::unexpected(
        std::vector{fmt::format("{}: expected a file that can be read, found {}", path, folder ? "a folder" : "none")});
  return read_prompts(file, path, limits);
}

} // namespace hflex::cli
