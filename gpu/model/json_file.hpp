// Reading JSON that somebody else wrote: bounded in size and nesting, each key once, and every failure a value that
// names the file. Called by whatever parses model files; knows nothing of what the JSON means.
#pragma once
#include "actors/common/result.hpp"
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace hflex::gpu {

/// Reads a regular file of at most `max_bytes`. errc::reject names the path and why: not there, not a file, too large.
result<std::string> read_file(const std::string& path, std::uint64_t max_bytes);

/// Parses one JSON value. `source` is named in errors. errc::reject for malformed text, nesting beyond `max_depth`, or
/// a key that an object holds twice (readers disagree on which one counts, so neither does). Never throws.
result<nlohmann::json> parse_json(std::string_view text, std::string_view source, std::size_t max_depth = 32);

/// read_file, then parse_json.
result<nlohmann::json> load_json(const std::string& path, std::uint64_t max_bytes);

/// A string of a foreign file, fit for a message: in double quotes, cut after 80 bytes, other than printable ASCII
/// escaped.
std::string printable(std::string_view text);

/// What a value looks like, for "expected X, found Y": its type, and itself when it is short.
std::string described(const nlohmann::json& value);

} // namespace hflex::gpu
