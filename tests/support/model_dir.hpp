// Model directories for tests: the demo model, and throw-away copies of it that a test may damage.
#pragma once
#include "tests/support/catch.hpp"
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <unistd.h>

namespace hflex::test {

inline std::string demo_model() { return HFLEX_SOURCE_DIR "/examples/models/austen-2.7m"; }

inline std::string slurp(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  REQUIRE(in.good());
  return {std::istreambuf_iterator<char>(in), {}};
}

/// A directory of this process that vanishes with the object.
class temp_dir {
public:
  temp_dir() {
    auto pattern = (std::filesystem::temp_directory_path() / "hflex-test-XXXXXX").string();
    REQUIRE(::mkdtemp(pattern.data()) != nullptr);
    path_ = pattern;
  }
  temp_dir(const temp_dir&) = delete;
  temp_dir& operator=(const temp_dir&) = delete;
  ~temp_dir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::string& path() const { return path_; }
  std::string file(const std::string& name) const { return path_ + "/" + name; }
  void write(const std::string& name, std::string_view text) const {
    std::ofstream out(file(name), std::ios::binary | std::ios::trunc);
    out.write(text.data(), static_cast<std::streamsize>(text.size()));
    REQUIRE(out.good());
  }

private:
  std::string path_;
};

/// A copy of the demo model that a test may change.
class model_copy : public temp_dir {
public:
  model_copy() {
    for (const auto* name : {"config.json", "tokenizer.json", "model.safetensors"}) {
      std::filesystem::copy_file(demo_model() + "/" + name, file(name));
    }
  }
  nlohmann::json read(const std::string& name) const { return nlohmann::json::parse(slurp(file(name))); }
  void write_json(const std::string& name, const nlohmann::json& value) const { write(name, value.dump()); }
  /// Sets one top-level key of config.json.
  void configure(const std::string& key, const nlohmann::json& value) const {
    auto config = read("config.json");
    config[key] = value;
    write_json("config.json", config);
  }
};

/// The message must hold every part.
inline void check_says(const std::string& message, std::initializer_list<std::string_view> parts) {
  for (const auto part : parts) {
    INFO("expected in the message: " << part);
    INFO("message: " << message);
    CHECK(message.find(part) != message.npos);
  }
}

/// Bytes of a safetensors file with this header text and `data_bytes` bytes of data.
inline std::string safetensors_file(std::string_view header, std::size_t data_bytes) {
  std::string out;
  for (unsigned shift = 0; shift < 64; shift += 8) {
    out += static_cast<char>(static_cast<std::uint64_t>(header.size()) >> shift & 0xffU);
  }
  out += header;
  out.append(data_bytes, '\x01');
  return out;
}

} // namespace hflex::test
