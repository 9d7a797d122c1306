#include "gpu/model/safetensors.hpp"
#include "tests/support/model_dir.hpp"
#include <fmt/format.h>

namespace hflex::safetensors_test {

using namespace hflex::gpu;
using namespace hflex::test;

namespace {

std::vector<std::string> faults_of(std::string_view file) {
  std::vector<std::string> faults;
  const auto bytes = std::as_bytes(std::span(file.data(), file.size()));
  for (const auto& item : parse_safetensors(bytes, "m.safetensors", faults)) {
    // Whatever the faults are: a tensor that is handed out lies inside the file.
    const auto& data = item.second.data;
    CHECK(data.data() >= bytes.data());
    CHECK(data.data() + data.size() <= bytes.data() + bytes.size());
  }
  return faults;
}

/// The faults of a file with this header and 8 bytes of data, one a line.
std::string judged(std::string_view header) {
  return fmt::format("{}", fmt::join(faults_of(safetensors_file(header, 8)), "\n"));
}

/// A header with one good tensor of 4 bytes and one that the test chooses.
std::string beside_good(std::string_view name, std::string_view entry) {
  return fmt::format(R"({{"good":{{"dtype":"F32","shape":[1],"data_offsets":[0,4]}},"{}":{}}})", name, entry);
}

} // namespace

TEST_CASE("a sound file has no faults") {
  CHECK(judged(
      R"({"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"b":{"dtype":"BF16","shape":[2,1],"data_offsets":[4,8]},)"
      R"("none":{"dtype":"F16","shape":[0,7],"data_offsets":[4,4]},"__metadata__":{"format":"pt"}}   )")
            .empty());
}

TEST_CASE("each fault of a tensor names file and tensor") {
  const auto says = [](std::string_view entry, std::initializer_list<std::string_view> parts) {
    INFO(entry);
    const auto faults = judged(beside_good("bad", entry));
    check_says(faults, {"m.safetensors: tensor \"bad\""});
    check_says(faults, parts);
  };
  says("7", {"expected an object"});
  says("{}", {"has no dtype"});
  says(R"({"dtype":"F32","shape":[1]})", {"has no data_offsets"});
  says(R"({"dtype":"I64","shape":[1],"data_offsets":[4,8]})", {"\"F32\", \"F16\" or \"BF16\"", "I64"});
  says(R"({"dtype":5,"shape":[1],"data_offsets":[4,8]})", {"dtype"});
  says(R"({"dtype":"F32","shape":[-1],"data_offsets":[4,8]})", {"shape: expected"});
  says(R"({"dtype":"F32","shape":[1.0],"data_offsets":[4,8]})", {"shape: expected"});
  says(R"({"dtype":"F32","shape":"x","data_offsets":[4,8]})", {"shape: expected"});
  says(R"({"dtype":"F32","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[4,8]})", {"at most 8"});
  says(R"({"dtype":"F32","shape":[2],"data_offsets":[4,8]})", {"F32 of shape [2]", "4 bytes"});
  says(R"({"dtype":"F32","shape":[1],"data_offsets":[8,4]})", {"not inside"});
  says(R"({"dtype":"F32","shape":[1],"data_offsets":[4,9]})", {"not inside the 8 bytes"});
  says(R"({"dtype":"F32","shape":[1],"data_offsets":[4,8,9]})", {"data_offsets: expected"});
  says(R"({"dtype":"F32","shape":[1],"data_offsets":[-4,0]})", {"data_offsets: expected"});
  says(R"({"dtype":"F32","shape":[1],"data_offsets":[18446744073709551612,18446744073709551615]})", {"not inside"});
  // 2^62 * 4 bytes is 0 in 64 bits; so is 2^32 * 2^32.
  says(R"({"dtype":"F32","shape":[4611686018427387904],"data_offsets":[4,4]})", {"does not take"});
  says(R"({"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[4,4]})", {"does not take"});
  says(R"({"dtype":"F32","shape":[1],"data_offsets":[2,6]})", {"overlaps"});
  says(R"({"dtype":"F16","shape":[1],"data_offsets":[6,8]})", {"belong to no tensor"});
}

TEST_CASE("bytes that belong to no tensor and headers that are none are faults") {
  check_says(judged(R"({"a":{"dtype":"F16","shape":[3],"data_offsets":[0,6]}})"), {"2 bytes after the last tensor"});
  check_says(judged("{}"), {"8 bytes after the last tensor"});
  check_says(judged("[]"), {"m.safetensors: header: expected an object"});
  check_says(judged("null"), {"header: expected an object"});
  check_says(judged(""), {"not valid JSON"});
  check_says(judged("{\"a\":NaN}"), {"not valid JSON"});
  check_says(judged(std::string(1'000'000, '[')), {"nested deeper"});
  check_says(judged(std::string(100, '{')), {"not valid JSON"});
  check_says(judged(beside_good("good", "1")), {"\"good\" appears twice"});
  check_says(judged(R"({"__metadata__":[1],"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})"), {"__metadata__"});
  CHECK(judged(beside_good("\\u001b[2J\\u0000", "7")).find('\x1b') == std::string::npos);
}

TEST_CASE("header lengths beyond the file or the bound are refused") {
  for (const std::uint64_t length : {std::uint64_t{9}, std::uint64_t{100'000'001}, std::uint64_t{1} << 63U,
           ~std::uint64_t{0}, ~std::uint64_t{0} - 7}) {
    auto file = safetensors_file("{}", 0);
    for (std::size_t i = 0; i < 8; ++i) file[i] = static_cast<char>(length >> (8 * i) & 0xffU);
    REQUIRE(faults_of(file).size() == 1);
    check_says(faults_of(file)[0], {"m.safetensors: header of", std::to_string(length)});
  }
}

TEST_CASE("a file cut off anywhere is refused") {
  const auto whole = slurp(demo_model() + "/model.safetensors");
  CHECK(faults_of(whole).empty());
  const std::size_t header_end = 8 + 6008;
  for (std::size_t length = 0; length < header_end + 500; length += 13) {
    CHECK_FALSE(faults_of(std::string_view(whole).substr(0, length)).empty());
  }
  CHECK_FALSE(faults_of(std::string_view(whole).substr(0, whole.size() - 1)).empty());
  CHECK_FALSE(faults_of(whole + "x").empty());
}

TEST_CASE("a file that is cut off within its data is one fault, however many tensors that concerns") {
  const auto whole = slurp(demo_model() + "/model.safetensors");
  for (const auto lacks : {whole.size() / 2, std::size_t{1}}) {
    const auto faults = faults_of(std::string_view(whole).substr(0, whole.size() - lacks));
    REQUIRE(faults.size() == 1);
    check_says(
        faults[0], {"data_offsets", "not inside", "end beyond the end of the file", "incomplete copy or download"});
    CHECK(faults[0].find(fmt::format("lacks {} bytes", lacks)) != std::string::npos);
  }
}

TEST_CASE("many faults are counted, not listed") {
  std::string header = "{";
  for (int i = 0; i < 1000; ++i) header += fmt::format("{}\"t{}\":0", i == 0 ? "" : ",", i);
  const auto faults = faults_of(safetensors_file(header + "}", 0));
  REQUIRE(faults.size() == 33);
  check_says(faults.back(), {"968 faults more"});
}

TEST_CASE("shards are joined and held against their index") {
  const temp_dir dir;
  const auto opened = [&] {
    std::vector<std::string> faults;
    const auto files = open_tensor_files(dir.path(), faults);
    return std::pair{files.tensors.size(), fmt::format("{}", fmt::join(faults, "\n"))};
  };
  const auto shard = [](std::string_view name) {
    return safetensors_file(fmt::format(R"({{"{}":{{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}}})", name), 8);
  };
  dir.write("one.safetensors", shard("a"));
  dir.write("two.safetensors", shard("b"));
  const auto* index = "model.safetensors.index.json";
  dir.write(index, R"({"weight_map":{"a":"one.safetensors","b":"two.safetensors"}})");
  CHECK(opened() == std::pair{std::size_t{2}, std::string()});

  dir.write(index, R"({"weight_map":{"a":"two.safetensors","b":"one.safetensors"}})");
  check_says(opened().second, {"\"two.safetensors\" does not hold tensor \"a\""});
  dir.write(index, R"({"weight_map":{"a":"one.safetensors","c":"two.safetensors"}})");
  check_says(opened().second, {"does not hold tensor \"c\""});
  dir.write(index, R"({"weight_map":{"a":"one.safetensors","b":"three.safetensors"}})");
  check_says(opened().second, {"/three.safetensors: cannot be opened"});
  dir.write(index, R"({"weight_map":{"a":"../one.safetensors"}})");
  check_says(opened().second, {"weight_map", "../one.safetensors"});
  dir.write(index, R"({"weight_map":{"a":"/etc/passwd"}})");
  check_says(opened().second, {"weight_map", "/etc/passwd"});
  dir.write(index, R"({"weight_map":3})");
  check_says(opened().second, {"model.safetensors.index.json", "weight_map"});
  dir.write("two.safetensors", shard("a"));
  dir.write(index, R"({"weight_map":{"a":"one.safetensors","b":"two.safetensors"}})");
  check_says(opened().second, {"tensor \"a\" is in another shard too"});
}

TEST_CASE("an empty file and a directory are not mapped as tensors") {
  const temp_dir dir;
  dir.write("model.safetensors", "");
  std::vector<std::string> faults;
  open_tensor_files(dir.path(), faults);
  REQUIRE(faults.size() == 1);
  check_says(faults[0], {"/model.safetensors", "too short"});
  CHECK_FALSE(mapped_file::open(dir.path()));
}

} // namespace hflex::safetensors_test
