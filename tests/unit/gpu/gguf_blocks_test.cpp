// Quantised blocks against values worked out by hand and against ggml's own numbers (tests/golden/make_gguf_blocks.py).
#include "gpu/kernels/pack.hpp"
#include "tests/support/gguf_writer.hpp"

namespace hflex::gguf_blocks_test {

using namespace hflex::gpu;
using namespace hflex::test;

namespace {

constexpr std::uint16_t half = 0x3800;  // 0.5
constexpr std::uint16_t three = 0x4200; // 3

std::string from_hex(const std::string& hex) {
  std::string out;
  for (std::size_t i = 0; i < hex.size(); i += 2) out += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  return out;
}

} // namespace

TEST_CASE("plain types decode to the numbers they stand for") {
  CHECK(decoded(dtype::f32, raw(1.5F) + raw(-2.0F)) == std::vector<float>{1.5F, -2.0F});
  CHECK(decoded(dtype::f16, raw(half) + raw(three)) == std::vector<float>{0.5F, 3.0F});
  CHECK(
      decoded(dtype::bf16, raw<std::uint16_t>(0x3fc0) + raw<std::uint16_t>(0xc000)) == std::vector<float>{1.5F, -2.0F});
}

TEST_CASE("blocks of 32 decode to values worked out by hand") {
  const std::string nibbles = "\x21" + std::string(14, '\x88') + "\xf0"; // 1 and 2, 8s, 0 and 15
  SECTION("Q4_0: (q - 8) d") {
    const auto x = decoded(dtype::q4_0, raw(half) + nibbles);
    CHECK(x[0] == -3.5F);
    CHECK(x[16] == -3.0F);
    CHECK(x[1] == 0.0F);
    CHECK(x[15] == -4.0F);
    CHECK(x[31] == 3.5F);
  }
  SECTION("Q4_1: q d + m") {
    const auto x = decoded(dtype::q4_1, raw(half) + raw(three) + nibbles);
    CHECK(x[0] == 3.5F);
    CHECK(x[16] == 4.0F);
    CHECK(x[15] == 3.0F);
    CHECK(x[31] == 10.5F);
  }
  SECTION("Q5_0: (q - 16) d, the fifth bits apart") {
    const auto x = decoded(dtype::q5_0, raw(half) + raw<std::uint32_t>(0x80000001U) + nibbles);
    CHECK(x[0] == 0.5F);
    CHECK(x[1] == -4.0F);
    CHECK(x[31] == 7.5F);
  }
  SECTION("Q5_1: q d + m, the fifth bits apart") {
    const auto x = decoded(dtype::q5_1, raw(half) + raw(three) + raw<std::uint32_t>(0x80000001U) + nibbles);
    CHECK(x[0] == 11.5F);
    CHECK(x[1] == 7.0F);
    CHECK(x[31] == 18.5F);
  }
  SECTION("Q8_0: q d") {
    const auto x = decoded(dtype::q8_0, raw(half) + "\x01\x80" + std::string(29, '\0') + "\x7f");
    CHECK(x[0] == 0.5F);
    CHECK(x[1] == -64.0F);
    CHECK(x[2] == 0.0F);
    CHECK(x[31] == 63.5F);
  }
}

TEST_CASE("random blocks decode to ggml's own numbers") {
  const auto golden = nlohmann::json::parse(slurp(HFLEX_SOURCE_DIR "/tests/golden/gguf_blocks.json"));
  std::size_t types = 0;
  for (const auto type : all_dtypes) {
    const auto found = golden.find(std::string(to_string(type)));
    if (found == golden.end()) continue;
    INFO(to_string(type));
    CHECK(decoded(type, from_hex((*found)["bytes"])) == (*found)["values"].get<std::vector<float>>());
    ++types;
  }
  CHECK(types == all_dtypes.size() - 3);
}

TEST_CASE("a panel packs rows of different block types, each rounded to bf16") {
  const auto golden = nlohmann::json::parse(slurp(HFLEX_SOURCE_DIR "/tests/golden/gguf_blocks.json"));
  std::array<source_row, panel_columns> rows{};
  std::vector<std::string> kept;
  std::vector<std::vector<float>> expected;
  for (const auto type : {dtype::q4_k, dtype::q6_k, dtype::q8_0, dtype::f32}) {
    std::string bytes;
    while (bytes.size() < bytes_of(type) * (256 / elements_of(type)))
      bytes += type == dtype::f32 ? raw(0.1F * static_cast<float>(bytes.size()))
                                  : from_hex(golden[std::string(to_string(type))]["bytes"]);
    bytes.resize(bytes_of(type) * (256 / elements_of(type)));
    expected.push_back(decoded(type, bytes));
    kept.push_back(std::move(bytes));
    rows[kept.size()].type = type;
  }
  for (std::size_t i = 0; i < kept.size(); ++i) rows[i + 1].data = reinterpret_cast<const std::byte*>(kept[i].data());
  std::vector<std::uint16_t> out(128 * panel_columns * 2, 0xffff);
  pack_panel(rows, 256, out);
  for (std::size_t row = 0; row < 6; ++row) {
    for (std::size_t k = 0; k < 256; ++k) {
      const float value = row >= 1 && row <= 4 ? expected[row - 1][k] : 0.0F;
      REQUIRE(out[(k / 2 * panel_columns + row) * 2 + k % 2] == f32_to_bf16(value));
    }
  }
}

} // namespace hflex::gguf_blocks_test
