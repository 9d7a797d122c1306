#include "config/fault.hpp"
#include <algorithm>
#include <fmt/format.h>
#include <utility>

namespace hflex::config {

std::string to_string(const origin& o) {
  switch (o.from) {
  case layer::built_in:
    return "default";
  case layer::environment:
    return fmt::format("environment variable {}", o.source);
  case layer::flag:
    return fmt::format("flag {}", o.source);
  case layer::file:
    break;
  }
  return o.line == 0 ? o.source : fmt::format("{}:{}:{}", o.source, o.line, o.column);
}

std::string to_string(const fault& f) {
  std::string text = to_string(f.where) + ": ";
  if (!f.key.empty()) text += f.key + ": ";
  text += fmt::format("expected {}, found {}", f.expected, f.found);
  if (!f.hint.empty()) text += fmt::format(" ({})", f.hint);
  return text;
}

std::string to_string(const std::vector<fault>& faults) {
  std::string text;
  for (const fault& f : faults) text += to_string(f) + "\n";
  return text;
}

std::string shown(std::string_view text) {
  constexpr std::size_t longest = 60;
  std::string out = "'";
  for (char c : text.substr(0, longest)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte >= 0x7f)
      out += fmt::format("\\x{:02x}", byte);
    else
      out += c;
  }
  out += text.size() > longest ? fmt::format("'... ({} bytes)", text.size()) : "'";
  return out;
}

void fault_list::add(fault f) {
  if (faults_.size() < max_faults)
    faults_.push_back(std::move(f));
  else
    ++left_out_;
}

bool fault_list::touch(std::string_view key) const {
  const auto part_of = [](std::string_view part, std::string_view whole) {
    return part.starts_with(whole) &&
           (part.size() == whole.size() || part[whole.size()] == '.' || part[whole.size()] == '[');
  };
  return std::any_of(faults_.begin(), faults_.end(),
      [&](const fault& f) { return !f.key.empty() && (part_of(f.key, key) || part_of(key, f.key)); });
}

std::vector<fault> fault_list::take() {
  const auto place = [](const fault& f) {
    return std::tie(f.where.from, f.where.source, f.where.line, f.where.column);
  };
  std::stable_sort(faults_.begin(), faults_.end(), [&](const fault& a, const fault& b) { return place(a) < place(b); });
  if (left_out_ > 0) {
    faults_.push_back(
        {faults_.back().where, "", "fewer faults", fmt::format("{} more than are listed", left_out_), ""});
    left_out_ = 0;
  }
  return std::exchange(faults_, {});
}

} // namespace hflex::config
