// The container: what a GGUF file holds, and what is said about one that is damaged or made to do damage.
#include "gpu/model/gguf_model.hpp"
#include "gpu/model/gguf_tokenizer.hpp"
#include "tests/support/gguf_writer.hpp"
#include "tests/support/model_dir.hpp"
#include <chrono>
#include <random>

namespace hflex::gguf_test {

using namespace hflex::gpu;
using namespace hflex::test;

namespace {

std::span<const std::byte> bytes_of(const std::string& file) { return std::as_bytes(std::span<const char>(file)); }

std::string faults_of(const std::string& file) {
  std::vector<std::string> faults;
  parse_gguf(bytes_of(file), "m.gguf", faults);
  return fmt::format("{}", fmt::join(faults, "\n"));
}

/// A file of one of everything.
gguf_writer sample() {
  gguf_writer out;
  out.text("name", "austen").natural("n", 7).real("x", 0.5F).flag("yes", true);
  out.value("small", gguf_type::i8, raw<std::int8_t>(-3)).value("large", gguf_type::u64, raw<std::uint64_t>(9));
  out.value("wide", gguf_type::f64, raw(0.25)).texts("words", {"a", "", "bc"}).integers("ids", {5, -1});
  out.list(
      "nested", gguf_type::array, 1, raw(static_cast<std::uint32_t>(gguf_type::u8)) + raw<std::uint64_t>(2) + "ab");
  return out;
}

const std::vector<float> ramp{0.0F, 1.0F, 2.0F, 3.0F, 4.0F, 5.0F};

} // namespace

TEST_CASE("a GGUF file gives its values and tensors back") {
  auto out = sample();
  out.tensor("t", {2, 3}, 0, encoded(dtype::f32, ramp)).tensor("v", {3}, 1, std::string(6, '\1'));
  const auto file = out.bytes();
  std::vector<std::string> faults;
  const auto content = parse_gguf(bytes_of(file), "m.gguf", faults);
  CHECK(faults.empty());
  CHECK(text_of(content.find("name")) == "austen");
  CHECK(natural_of(content.find("n")) == 7U);
  CHECK(std::get<double>(*content.find("x")) == 0.5);
  CHECK(std::get<bool>(*content.find("yes")));
  CHECK(std::get<std::int64_t>(*content.find("small")) == -3);
  CHECK_FALSE(natural_of(content.find("small")));
  CHECK(std::get<double>(*content.find("wide")) == 0.25);
  CHECK(strings_of(*content.find("words")) == std::vector<std::string_view>{"a", "", "bc"});
  CHECK(integers_of(*content.find("ids")) == std::vector<std::int64_t>{5, -1});
  CHECK_FALSE(integers_of(*content.find("words")));
  CHECK(std::get<gguf_array>(*content.find("nested")).count == 1);
  CHECK(content.find("nothing") == nullptr);
  REQUIRE(content.tensors.size() == 2);
  const auto& t = content.tensors.find("t")->second;
  CHECK(t.shape == std::vector<std::uint64_t>{2, 3});
  CHECK(decoded(t.type, {reinterpret_cast<const char*>(t.data.data()), t.data.size()}) == ramp);
  CHECK(content.tensors.find("v")->second.data.size() == 6);
}

TEST_CASE("version 2 and another alignment are read as well") {
  gguf_writer out;
  out.version(2)
      .align(128)
      .tensor("a", {6}, 0, encoded(dtype::f32, ramp))
      .tensor("b", {6}, 0, encoded(dtype::f32, ramp));
  const auto file = out.bytes();
  std::vector<std::string> faults;
  const auto content = parse_gguf(bytes_of(file), "m.gguf", faults);
  CHECK(faults.empty());
  CHECK(content.tensors.find("b")->second.data.data() - content.tensors.find("a")->second.data.data() == 128);
}

TEST_CASE("a file that ends early is refused at every length, naming what it ends in") {
  auto out = sample();
  out.tensor("t", {2, 3}, 0, encoded(dtype::f32, ramp));
  const auto file = out.bytes();
  const auto end_of_data = file.size() - 8; // 24 bytes of data are padded to 32
  for (std::size_t length = 0; length < end_of_data; ++length) {
    if (faults_of(file.substr(0, length)).empty()) FAIL(length << " of " << file.size() << " bytes passed");
  }
  CHECK(faults_of(file.substr(0, end_of_data)).empty());
  check_says(faults_of(file.substr(0, 2)), {"m.gguf", "not a GGUF file"});
  check_says(faults_of(file.substr(0, 10)), {"m.gguf: header", "truncated"});
  check_says(faults_of(file.substr(0, 40)), {"key \"name\"", "truncated"});
  check_says(faults_of(file.substr(0, out.header().size() - 4)), {"tensor \"t\"", "truncated"});
  check_says(faults_of(file.substr(0, end_of_data - 1)), {"tensor \"t\"", "24 bytes at offset 0", "23 bytes of data"});
}

TEST_CASE("other versions and byte orders are refused by name") {
  check_says(faults_of(gguf_writer().version(1).bytes()), {"version 1", "2 and 3"});
  check_says(faults_of(gguf_writer().version(4).bytes()), {"version 4"});
  check_says(faults_of(gguf_writer().version(3U << 24U).bytes()), {"big-endian"});
  check_says(faults_of("GGML and so on, long enough for a header"), {"not a GGUF file"});
}

TEST_CASE("counts that the file cannot hold cost no memory") {
  constexpr std::uint64_t huge = ~std::uint64_t{0};
  const auto u8 = raw(static_cast<std::uint32_t>(gguf_type::u8));
  const auto with = [](gguf_type type, const std::string& bytes) {
    return faults_of(gguf_writer().value("k", type, bytes).bytes());
  };
  check_says(with(gguf_type::string, raw(huge) + "abc"), {"key \"k\"", "truncated"});
  check_says(with(gguf_type::array, u8 + raw(huge)), {"key \"k\"", "18446744073709551615 values"});
  check_says(with(gguf_type::array, raw(8U) + raw(huge)), {"key \"k\"", "truncated"});
  check_says(with(gguf_type::array, raw(10U) + raw(huge / 8 + 1)), {"key \"k\"", "does not fit"});
  check_says(with(static_cast<gguf_type>(77), "abcdefgh"), {"key \"k\"", "value type 77"});
  auto deep = u8 + raw<std::uint64_t>(0);
  for (int i = 0; i < 6; ++i) deep = raw(9U) + raw<std::uint64_t>(1) + deep;
  check_says(with(gguf_type::array, deep), {"key \"k\"", "nested more than 4 deep"});
  check_says(faults_of("GGUF" + raw(3U) + raw(huge) + raw(huge)), {"key 0 of 18446744073709551615", "truncated"});
  check_says(faults_of("GGUF" + raw(3U) + raw(huge) + raw<std::uint64_t>(0)), {"tensor 0 of 18446744073709551615"});
}

TEST_CASE("keys and tensors that occur twice are refused") {
  check_says(faults_of(gguf_writer().natural("k", 1).natural("k", 2).bytes()), {"key \"k\": twice"});
  gguf_writer out;
  out.tensor("t", {6}, 0, encoded(dtype::f32, ramp)).tensor("t", {6}, 0, encoded(dtype::f32, ramp));
  check_says(faults_of(out.bytes()), {"tensor \"t\": is listed twice"});
}

TEST_CASE("an alignment that is none is refused") {
  for (const std::uint32_t bad : {0U, 1U, 24U, 1U << 30U}) {
    check_says(
        faults_of(gguf_writer().natural("general.alignment", bad).bytes()), {"general.alignment", "power of two"});
  }
  check_says(faults_of(gguf_writer().text("general.alignment", "32").bytes()), {"general.alignment", "the string"});
}

TEST_CASE("a tensor that cannot be used is named together with its fault") {
  const std::string data(64, '\0');
  const auto with = [&](std::vector<std::uint64_t> shape, std::uint32_t type, std::uint64_t offset) {
    gguf_writer out;
    out.tensor("fine", {16}, 0, data).tensor_at("bad", shape, type, offset);
    const auto said = faults_of(out.bytes());
    CHECK(said.find("\"fine\"") == said.npos);
    return said;
  };
  check_says(with({16}, 11, 0), {"tensor \"bad\"", "type Q3_K (11) is not supported", "Q4_0"});
  check_says(with({16}, 999, 0), {"tensor \"bad\"", "type 999 is not supported"});
  check_says(with({2, 16}, 2, 0), {"tensor \"bad\"", "shape [2, 16]", "32 Q4_0 elements"});
  check_says(with({16}, 0, 64), {"tensor \"bad\"", "not inside"});
  check_says(with({16}, 0, ~std::uint64_t{31}), {"tensor \"bad\"", "not inside"});
  check_says(with({1}, 0, 4), {"tensor \"bad\"", "offset 4", "alignment 32"});
  check_says(with({1ULL << 40U, 1ULL << 40U}, 0, 0), {"tensor \"bad\"", "too large"});
  check_says(with({1, 1, 1, 1, 1}, 0, 0), {"tensor \"bad\"", "5 dimensions"});
  check_says(with({~std::uint64_t{0}}, 0, 0), {"tensor \"bad\""});
  gguf_writer out;
  out.tensor("first", {16}, 0, data).tensor_at("second", {4}, 0, 32);
  check_says(faults_of(out.bytes()), {"tensor \"second\" overlaps"});
}

TEST_CASE("too many faults are counted, not listed") {
  gguf_writer out;
  for (int i = 0; i < 100; ++i) out.tensor_at(fmt::format("t{}", i), {1}, 11, 0);
  std::vector<std::string> faults;
  parse_gguf(bytes_of(out.bytes()), "m.gguf", faults);
  CHECK(faults.size() == 33);
  check_says(faults.back(), {"68 faults more"});
}

TEST_CASE("mutated GGUF headers never crash, and what they yield lies inside the file") {
  auto out = demo_metadata();
  add_demo_tensors(out, dtype::q8_0);
  const auto whole = out.bytes();
  const auto header = sample().tensor("t", {2, 3}, 0, encoded(dtype::f32, ramp)).bytes();
  std::mt19937 random(2024);
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(600);
  int done = 0;
  for (; done < 2000 && std::chrono::steady_clock::now() < end; ++done) {
    auto file = done % 16 == 0 ? whole : header;
    const auto reach = std::min<std::size_t>(file.size(), 2000); // keys, counts and the start of the lists
    for (auto changes = 1 + random() % 4; changes > 0; --changes) {
      const auto at = random() % reach;
      if (random() % 4 == 0)
        file.replace(at, 8, raw(~std::uint64_t{0} >> random() % 64));
      else
        file[at] = static_cast<char>(random());
    }
    if (random() % 4 == 0) file.resize(random() % file.size());
    std::vector<std::string> faults;
    const auto bytes = bytes_of(file);
    const auto content = parse_gguf(bytes, "m", faults);
    const auto report = gguf_config(content, "m");
    if (report.faults.empty()) huggingface_tensors(content, report.config);
    if (const auto words = read_gguf_tokenizer(content, "m"); !words && words.error().message.empty())
      FAIL("a tokenizer is refused without a reason");
    for (const auto& item : content.tensors) {
      const auto& data = item.second.data;
      const bool inside = data.data() >= bytes.data() && data.data() + data.size() <= bytes.data() + bytes.size();
      if (!inside || tensor_bytes(item.second.type, item.second.shape) != data.size())
        FAIL("tensor " << item.first << " is outside the file");
    }
  }
  CHECK(done > 100);
}

TEST_CASE("a name stands for a GGUF file, or for the only one in a directory without safetensors") {
  const temp_dir dir;
  CHECK_FALSE(gguf_path_of(dir.path()).value());
  CHECK_FALSE(gguf_path_of("/nonexistent").value());
  dir.write("one.gguf", "x");
  dir.write("config.json", "{}");
  CHECK(gguf_path_of(dir.path()).value() == dir.file("one.gguf"));
  CHECK(gguf_path_of(dir.file("one.gguf")).value() == dir.file("one.gguf"));
  dir.write("two.gguf", "x");
  check_says(gguf_path_of(dir.path()).error().message, {"2 GGUF files", "one.gguf, two.gguf"});
  dir.write("model.safetensors", "x");
  CHECK_FALSE(gguf_path_of(dir.path()).value());
  CHECK_FALSE(gguf_path_of(demo_model()).value());
}

} // namespace hflex::gguf_test
