// What people see: tables, units, progress, colours.
#include "tests/support/catch.hpp"
#include "tools/cli/json_line.hpp"
#include "tools/cli/progress.hpp"
#include "tools/cli/table.hpp"
#include "tools/cli/terminal.hpp"
#include "tools/cli/units.hpp"
#include <cstdlib>
#include <fcntl.h>
#include <unistd.h>

namespace hflex::output_test {

using namespace hflex::cli;
using std::chrono::milliseconds;

namespace {

constexpr terminal pipe_out{};
constexpr terminal colour_screen{true, true, 80};
const time_point start{std::chrono::hours{1}};

} // namespace

TEST_CASE("tables align text to the left and numbers to the right, without blanks at the end") {
  table t({{"name"}, {"count", align::right}, {"note"}});
  t.add({"a", "7", "first"});
  t.add({"longer", "1234", ""});
  CHECK(t.render(pipe_out) == "name    count  note\n"
                              "a           7  first\n"
                              "longer   1234\n");
}

TEST_CASE("tables align letters that take two columns or none") {
  table t({{"prompt"}, {"n", align::right}});
  t.add({"日本", "1"});
  t.add({"e\u0301e", "2"}); // e with a combining accent
  t.add({"plain", "3"});
  CHECK(t.render(pipe_out) == "prompt  n\n"
                              "日本    1\n"
                              "e\u0301e      2\n"
                              "plain   3\n");
}

TEST_CASE("the column that may shrink fits the table to the terminal") {
  table t({{"id"}, {"text", align::left, true}, {"n", align::right}});
  t.add({"r1", "a text that is much too long for this", "10"});
  CHECK(t.render({true, false, 24}) == "id  text               n\n"
                                       "r1  a text that is …  10\n");
  CHECK(t.render({true, false, 3}) == "id  text       n\n"
                                      "r1  a text …  10\n");
  CHECK(t.render(pipe_out).find("much too long for this") != std::string::npos);
}

TEST_CASE("a stranger's control characters never reach the terminal") {
  CHECK(one_line("a\x1b[31mb\nc\td\x7f") == "a?[31mb?c?d?");
  CHECK(one_line("ok \xff\xc3") == "ok ??");
  CHECK(one_line("\u202Eabc\u2028") == "?abc?"); // right-to-left override, line separator
  CHECK(one_line("žluťoučký 日本 🙂") == "žluťoučký 日本 🙂");
  table t({{"x"}});
  t.add({"\x1b]0;title\x07"});
  CHECK(t.render(colour_screen).find("\x1b]") == std::string::npos);
}

TEST_CASE("shortening keeps whole letters and says that it cut") {
  CHECK(shorten("abcdef", 6) == "abcdef");
  CHECK(shorten("abcdef", 4) == "abc…");
  CHECK(shorten("日本語", 4) == "日…");
  CHECK(shorten("abc", 1) == "…");
  CHECK(shorten("abc", 0).empty());
}

TEST_CASE("colours appear only where there are colours") {
  CHECK(paint("x", style::red, colour_screen) == "\x1b[31mx\x1b[0m");
  CHECK(paint("x", style::red, pipe_out) == "x");
  CHECK(paint("x", style::plain, colour_screen) == "x");
  table t({{"state"}});
  t.add({cell{"lost", style::red}});
  CHECK(t.render(colour_screen) == "\x1b[1mstate\x1b[0m\n\x1b[31mlost\x1b[0m\n");
  CHECK(t.render(pipe_out) == "state\nlost\n");
}

TEST_CASE("a pipe is no terminal") {
  int ends[2];
  REQUIRE(pipe(ends) == 0);
  const terminal t = detect_terminal(ends[1]);
  CHECK(!t.is_terminal);
  CHECK(!t.colours);
  CHECK(t.width == 0);
  close(ends[0]);
  close(ends[1]);
}

TEST_CASE("NO_COLOR and dumb terminals switch colours off") {
  const int master = posix_openpt(O_RDWR | O_NOCTTY);
  if (master < 0 || grantpt(master) != 0 || unlockpt(master) != 0) return; // no pseudo terminals here
  const int screen = open(ptsname(master), O_RDWR | O_NOCTTY);
  REQUIRE(screen >= 0);
  unsetenv("NO_COLOR");
  setenv("TERM", "xterm", 1);
  CHECK(detect_terminal(screen).colours);
  setenv("NO_COLOR", "", 1);
  CHECK(detect_terminal(screen).colours);
  setenv("NO_COLOR", "1", 1);
  CHECK(detect_terminal(screen).is_terminal);
  CHECK(!detect_terminal(screen).colours);
  unsetenv("NO_COLOR");
  setenv("TERM", "dumb", 1);
  CHECK(!detect_terminal(screen).colours);
  close(screen);
  close(master);
}

TEST_CASE("bytes are shown with three digits in binary units") {
  CHECK(human_bytes(0) == "0 B");
  CHECK(human_bytes(1023) == "1023 B");
  CHECK(human_bytes(1024) == "1.00 KiB");
  CHECK(human_bytes(1536) == "1.50 KiB");
  CHECK(human_bytes(64U << 20U) == "64.0 MiB");
  CHECK(human_bytes((1ULL << 20U) - 1) == "1.00 MiB");
  CHECK(human_bytes(139ULL << 30U) == "139 GiB");
  CHECK(human_bytes(UINT64_MAX) == "16.0 EiB");
}

TEST_CASE("durations are shown in the unit that people would say") {
  CHECK(human_duration(duration{0}) == "0 s");
  CHECK(human_duration(duration{999}) == "999 ns");
  CHECK(human_duration(duration{812'300}) == "812 us");
  CHECK(human_duration(duration{999'999}) == "1.00 ms");
  CHECK(human_duration(from_ms(12.34)) == "12.3 ms");
  CHECK(human_duration(from_ms(999.6)) == "1.00 s");
  CHECK(human_duration(from_s(4.561)) == "4.56 s");
  CHECK(human_duration(from_s(59.97)) == "1 min 0 s");
  CHECK(human_duration(from_s(125)) == "2 min 5 s");
  CHECK(human_duration(from_s(3599.8)) == "1 h 0 min");
  CHECK(human_duration(from_s(3 * 3600 + 125)) == "3 h 2 min");
  CHECK(human_duration(from_s(4 * 86400 + 3700)) == "4 d 1 h");
  CHECK(human_duration(from_ms(-5)) == "-5.00 ms");
  CHECK(human_duration(duration::max()) == "106751 d");
  CHECK(human_duration(duration::min()) == "-106751 d");
}

TEST_CASE("shares are shown in percent") {
  CHECK(human_percent(0.9731) == "97.3 %");
  CHECK(human_percent(1) == "100.0 %");
}

TEST_CASE("progress redraws one line on a terminal, ten times a second at most") {
  progress p("loading weights", {true, false, 30}, start);
  CHECK(p.update(0, 200, "", start) == "\r\x1b[Kloading weights 0 % (0/200),…");
  CHECK(p.update(1, 200, "", start + milliseconds{99}).empty());
  CHECK(p.update(100, 200, "", start + milliseconds{100}).starts_with("\r\x1b[Kloading weights 50 % (100"));
  CHECK(p.finish("done", start + milliseconds{2500}) == "\r\x1b[Kloading weights done in 2.50 s\n");
}

TEST_CASE("progress writes sparse lines where nobody watches") {
  progress p("waiting", pipe_out, start);
  CHECK(p.update(1, 0, "", start).empty());
  CHECK(p.update(2, 0, "", start + milliseconds{4999}).empty());
  CHECK(p.update(3, 0, "r1\nr2", start + milliseconds{5000}) == "waiting 3, 5.00 s, r1?r2\n");
  CHECK(p.update(4, 0, "", start + milliseconds{9000}).empty());
  CHECK(p.update(5, 5, "", start + milliseconds{10000}) == "waiting 100 % (5/5), 10.0 s\n");
  CHECK(p.finish("failed", start + milliseconds{12000}) == "waiting failed in 12.0 s\n");
}

TEST_CASE("JSON lines keep the order of keys and survive bytes that are no UTF-8") {
  CHECK(json_line({{"z", 1}, {"a", "x\ny"}}) == "{\"z\":1,\"a\":\"x\\ny\"}\n");
  CHECK(json_line({{"text", "\xff"}}) == "{\"text\":\"\xEF\xBF\xBD\"}\n");
}

} // namespace hflex::output_test
