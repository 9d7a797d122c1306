#include "gpu/model/bpe.hpp"
#include "gpu/model/split_regex.hpp"
#include "gpu/model/utf8.hpp"
#include "tests/support/model_dir.hpp"
#include <algorithm>
#include <random>

namespace hflex::split_regex_test {

using namespace hflex::gpu;
using namespace hflex::test;

namespace {

std::vector<std::string> cut(std::string_view pattern, std::string_view text) {
  const auto regex = split_regex::compile(pattern);
  REQUIRE(regex);
  std::vector<std::string_view> pieces;
  regex->split(text, pieces);
  return {pieces.begin(), pieces.end()};
}

using strings = std::vector<std::string>;

} // namespace

TEST_CASE("a split keeps matches and what lies between them") {
  CHECK(cut(R"(\p{N})", "ab12c") == strings{"ab", "1", "2", "c"});
  CHECK(cut(R"(\s+(?!\S)|\s+)", "a   b") == strings{"a", "  ", " ", "b"});
  CHECK(cut("x*", "axb") == strings{"a", "x", "b"});
  CHECK(cut("x*", "\xc3\xa9\xc3\xa9") == strings{"\xc3\xa9", "\xc3\xa9"}); // an empty match steps over whole characters
  CHECK(cut("a", "").empty());
}

TEST_CASE("white space is what Unicode says, not what PCRE2 says") {
  const std::string mongolian_vowel_separator = "\xe1\xa0\x8e"; // U+180E
  CHECK(cut(R"(\s)", "a" + mongolian_vowel_separator + "b").size() == 1);
  CHECK(cut(R"([\s])", "a" + mongolian_vowel_separator + "b").size() == 1);
  CHECK(cut(R"(\S+)", mongolian_vowel_separator + " ").size() == 2);
  for (const auto* space : {"\t", "\x0b", "\xc2\x85", "\xc2\xa0", "\xe2\x80\xa8", "\xe3\x80\x80"}) {
    CHECK(cut(R"(\s)", std::string("a") + space + "b").size() == 3);
  }
}

TEST_CASE("expressions that the two engines read differently are refused") {
  for (const auto* pattern : {R"(\w+)", R"(a\b)", R"(\h)", R"(\p{Han})", R"(\p)", R"(\p{)", R"(\p{})", R"(\pL)",
           R"([a[b]])", R"([a&&b])", R"([\S])", R"([])", "(?R)", "(*LIMIT_MATCH=1)a", "(?C1)", "(?<name>a)", "[a", "\\",
           R"(\u12)", R"(\1)", R"(\Q)", R"(\X)"}) {
    INFO(pattern);
    CHECK_FALSE(translate_regex(pattern));
    CHECK_FALSE(split_regex::compile(pattern));
  }
  CHECK_FALSE(split_regex::compile("a)"));
  CHECK_FALSE(split_regex::compile("(((" + std::string(100'000, '(')));
  CHECK(translate_regex(R"([\u3040-\u309f])") == R"([\x{3040}-\x{309f}])");
  CHECK(translate_regex(R"([^\r\n\p{L}\p{^Nd}]\/\-)") == R"([^\r\n\p{L}\p{^Nd}]\/\-)");
}

TEST_CASE("an expression that backtracks without end gives up and keeps the text") {
  const std::string text = std::string(5000, 'a') + "b";
  const auto pieces = cut("(?:a+)+[^ab]", text);
  std::string together;
  for (const auto& piece : pieces) together += piece;
  CHECK(together == text);
}

TEST_CASE("short and long pieces are merged alike") {
  // Random merges over four letters: every prefix and suffix of a long text must agree with merging by definition.
  std::mt19937 random(3);
  for (int round = 0; round < 200; ++round) {
    std::vector<bpe_merge> merges;
    for (token_id made = 256; made < 280; ++made) {
      const auto pick = [&] {
        return static_cast<token_id>(random() % 2 ? 97 + random() % 3 : 256 + random() % (made - 255));
      };
      merges.push_back({pick(), pick(), made, static_cast<std::uint32_t>(merges.size())});
    }
    const bpe merger(merges);
    std::string text(1 + random() % 120, 'a');
    for (auto& c : text) c = static_cast<char>('a' + random() % 3);

    const std::vector<token_id> letters(text.begin(), text.end());
    auto expected = letters;
    const auto rank_of = [&](std::size_t i) {
      std::size_t rank = merges.size();
      for (std::size_t m = 0; m < merges.size(); ++m) {
        if (merges[m].left == expected[i] && merges[m].right == expected[i + 1]) rank = m; // the last of equals counts
      }
      return rank;
    };
    for (;;) {
      std::size_t best = merges.size();
      std::size_t at = 0;
      for (std::size_t i = 0; i + 1 < expected.size(); ++i) {
        if (rank_of(i) < best) {
          best = rank_of(i);
          at = i;
        }
      }
      if (best == merges.size()) break;
      expected[at] = merges[best].merged;
      expected.erase(expected.begin() + static_cast<std::ptrdiff_t>(at) + 1);
    }
    std::vector<token_id> got;
    merger.encode(letters, got);
    CHECK(got == expected);
  }
}

TEST_CASE("canonical composition orders marks and joins them") {
  CHECK(compose_nfc("e\xcc\x81") == "\xc3\xa9");
  CHECK(compose_nfc("plain") == "plain");
  CHECK(compose_nfc("a\xcc\x81\xcc\xa3") == "\xe1\xba\xa1\xcc\x81"); // dot below (220) comes before acute (230)
  CHECK(compose_nfc("\xe1\x84\x80\xe1\x85\xa1\xe1\x86\xa8") == "\xea\xb0\x81"); // Hangul
  CHECK(compose_nfc("\xef\xac\x81") == "\xef\xac\x81"); // a ligature is a compatibility form: kept
}

} // namespace hflex::split_regex_test
