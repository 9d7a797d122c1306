// Hostile and broken files: whatever the bytes, the loader answers with a configuration or with faults, and in bounded
// time.
#include "config/loader.hpp"
#include "tests/support/catch.hpp"
#include <fstream>
#include <random>
#include <sstream>

namespace hflex::fuzz_test {

using namespace hflex::config;

namespace {

std::string shipped(const char* name) {
  std::ifstream file(std::string{HFLEX_SOURCE_DIR} + "/config/" + name);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

/// One to four random edits: bytes flipped, removed, inserted, pieces copied elsewhere, the tail cut.
std::string mutate(std::string text, std::mt19937& random) {
  const std::string_view spice = "\n\t :-#[]{}&*!|>'\"%@`,?~\\\x01\x7f\xc3\xff\x00"
                                 "0123456789eE.+";
  const auto below = [&](std::size_t n) { return std::uniform_int_distribution<std::size_t>{0, n - 1}(random); };
  for (std::size_t edits = 1 + below(4); edits > 0 && !text.empty(); --edits) {
    const std::size_t at = below(text.size());
    switch (below(5)) {
    case 0:
      text[at] = static_cast<char>(below(256));
      break;
    case 1:
      text.erase(at, 1 + below(20));
      break;
    case 2:
      text.insert(at, 1, spice[below(spice.size())]);
      break;
    case 3:
      text.insert(at, text.substr(below(text.size()), below(200)));
      break;
    default:
      text.resize(at);
      break;
    }
  }
  return text;
}

} // namespace

TEST_CASE("mutated files end in a configuration or in faults with a place") {
  std::mt19937 random(20240611);
  std::size_t taken = 0, refused = 0;
  for (const char* name : {"local.yaml", "cluster.example.yaml"}) {
    const std::string good = shipped(name);
    REQUIRE(!good.empty());
    sources from;
    from.file = std::string{HFLEX_SOURCE_DIR} + "/config/" + name;
    for (int i = 0; i < 1500; ++i) {
      const std::string text = mutate(good, random);
      INFO("round " << i << " of " << name << ":\n" << text);
      const auto got = read_config(text, from);
      if (got) {
        ++taken;
        CHECK(!got->config.fleet.empty());
        CHECK(!got->config.agents.empty());
        CHECK(!got->config.slo.classes.empty());
        continue;
      }
      ++refused;
      REQUIRE(!got.error().empty());
      for (const fault& f : got.error()) CHECK(!f.expected.empty());
    }
  }
  CHECK(taken > 100);   // comments and free text mutate harmlessly ...
  CHECK(refused > 100); // ... but the loop reaches the faults too
}

TEST_CASE("texts that provoke a parser's worst case are refused quickly") {
  const auto repeated = [](std::string_view piece, int times) {
    std::string text;
    for (int i = 0; i < times; ++i) text += piece;
    return text;
  };
  for (const std::string& text : {repeated("{a: ", 20'000), repeated("- ", 200'000), repeated("a:\n ", 20'000),
           repeated("? ", 100'000), repeated("'", 500'001), repeated("a: &b\n", 1000), repeated("!a ", 1000),
           repeated("\xff\xfe", 1000), repeated("%YAML 1.2\n", 1000), repeated("--- ", 10'000)}) {
    INFO(text.substr(0, 40));
    sources from;
    from.file = "f.yaml";
    CHECK(!read_config(text, from));
  }
}

} // namespace hflex::fuzz_test
