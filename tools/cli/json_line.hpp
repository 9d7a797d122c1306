// JSON as hflex prints it: keys in the order they were put in, never an exception over a stranger's bytes.
#pragma once
#include <nlohmann/json.hpp>
#include <string>

namespace hflex::cli {

/// One document on one line, with its newline. Bytes that are no UTF-8 become U+FFFD.
inline std::string json_line(const nlohmann::ordered_json& document) {
  return document.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

} // namespace hflex::cli
