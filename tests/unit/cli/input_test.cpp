// What people type: endpoints and prompt files.
#include "tests/support/catch.hpp"
#include "tools/cli/endpoint.hpp"
#include "tools/cli/exit_code.hpp"
#include "tools/cli/prompt_file.hpp"
#include <random>
#include <sstream>

namespace hflex::input_test {

using namespace hflex::cli;

namespace {

std::string endpoint_fault(std::string_view text) {
  const auto e = parse_endpoint(text);
  return e ? "taken as " + to_string(*e) : e.error().message;
}

prompt_result prompts_of(const std::string& text, const prompt_limits& limits = {}) {
  std::istringstream in(text);
  return read_prompts(in, "p.jsonl", limits);
}

/// The only fault.
std::string prompt_fault(const std::string& text) {
  const auto got = prompts_of(text);
  if (got) return "taken";
  std::string all;
  for (const std::string& f : got.error()) all += (all.empty() ? "" : "\n") + f;
  return all;
}

} // namespace

TEST_CASE("endpoints are read as people write them, and written back") {
  CHECK(parse_endpoint("127.0.0.1:7450") == endpoint{"127.0.0.1", 7450});
  CHECK(parse_endpoint("head.example-1.org:1") == endpoint{"head.example-1.org", 1});
  CHECK(parse_endpoint("[::1]:65535") == endpoint{"::1", 65535});
  CHECK(parse_endpoint("gpu_host", 7450) == endpoint{"gpu_host", 7450});
  CHECK(parse_endpoint("[fe80::1]", 7450) == endpoint{"fe80::1", 7450});
  for (const char* text : {"10.1.2.3:80", "[2001:db8::5]:7450", "localhost:7450"})
    CHECK(to_string(*parse_endpoint(text)) == text);
}

TEST_CASE("wrong endpoints are refused in words") {
  CHECK(endpoint_fault("localhost") == "'localhost': expected HOST:PORT, found no port");
  CHECK(endpoint_fault("localhost:0") == "'localhost:0': expected a port from 1 to 65535, found '0'");
  CHECK(endpoint_fault("localhost:65536") == "'localhost:65536': expected a port from 1 to 65535, found '65536'");
  CHECK(endpoint_fault("localhost:+80").find("expected a port") != std::string::npos);
  CHECK(endpoint_fault("localhost:80x").find("expected a port") != std::string::npos);
  CHECK(endpoint_fault("localhost:").find("expected a port") != std::string::npos);
  CHECK(endpoint_fault("::1:7450") == "'::1:7450': expected HOST:PORT; an IPv6 address goes in brackets, [::1]:7450");
  CHECK(endpoint_fault("[::1:7450").find("expected a ']'") != std::string::npos);
  CHECK(endpoint_fault("[::1]7450").find("expected ':PORT' after ']'") != std::string::npos);
  CHECK(endpoint_fault("[localhost]:1").find("expected an IPv6 address in the brackets") != std::string::npos);
  for (const char* text :
      {"", ":7450", "a..b:1", "-a:1", "a-:1", "1.2.3:1", "256.0.0.1:1", "a b:1", "a/b:1", "http://a:1"})
    CHECK(endpoint_fault(text).find("taken") == std::string::npos);
  CHECK(endpoint_fault("\x1b[2J:1").find('\x1b') == std::string::npos);
}

TEST_CASE("a prompt file is read line by line with every key") {
  const auto got = prompts_of(
      "{\"prompt\": \"a\"}\r\n\n  \n"
      "{\"prompt\": \"b\\u00e9\", \"slo\": \"batch\", \"max_tokens\": 7, \"temperature\": 0.5, \"top_p\": 1, "
      "\"seed\": 18446744073709551615, \"ttft_ms\": 1.5, \"tpot_ms\": 20, \"ignore_eos\": true}");
  REQUIRE(got);
  REQUIRE(got->size() == 2);
  CHECK((*got)[0].prompt == "a");
  CHECK(!(*got)[0].slo);
  CHECK(!(*got)[0].ignore_eos);
  const prompt_line& p = (*got)[1];
  CHECK(p.prompt == "bé");
  CHECK(p.slo == "batch");
  CHECK(p.max_tokens == 7U);
  CHECK(p.temperature == 0.5);
  CHECK(p.top_p == 1.0);
  CHECK(p.seed == UINT64_MAX);
  CHECK(p.ttft_ms == 1.5);
  CHECK(p.tpot_ms == 20.0);
  CHECK(p.ignore_eos == true);
}

TEST_CASE("every wrong value in a prompt file is told with its line") {
  CHECK(prompt_fault(
            "{\"prompt\": \"a\"}\n{\"prompt\": \"b\", \"temperature\": 11, \"max_tokens\": 0}\n{\"slo\": \"x\"}\n") ==
        "p.jsonl:2: max_tokens: expected a whole number from 1 to 1000000, found 0\n"
        "p.jsonl:2: temperature: expected a number from 0 to 10, found 11\n"
        "p.jsonl:3: expected the key prompt or messages, found none");
  CHECK(prompt_fault("{\"prompt\": \"\"}") == "p.jsonl:1: prompt: expected text that is not empty, found \"\"");
  CHECK(prompt_fault("{\"prompt\": \"a\", \"top_p\": 0}") ==
        "p.jsonl:1: top_p: expected a number above 0, at most 1, found 0");
  CHECK(prompt_fault("{\"prompt\": \"a\", \"seed\": -1}").find("seed: expected a whole number") != std::string::npos);
  CHECK(prompt_fault("{\"prompt\": \"a\", \"seed\": 1.5}").find("seed: expected a whole number") != std::string::npos);
  CHECK(prompt_fault("{\"prompt\": \"a\", \"ignore_eos\": 1}") ==
        "p.jsonl:1: ignore_eos: expected true or false, found 1");
  CHECK(prompt_fault("{\"prompt\": [\"a\"]}") == "p.jsonl:1: prompt: expected text that is not empty, found a list");
}

TEST_CASE("unknown and repeated keys in a prompt file are named") {
  CHECK(prompt_fault("{\"prompt\": \"a\", \"temprature\": 1}") ==
        "p.jsonl:1: expected one of the keys prompt, messages, slo, max_tokens, temperature, top_p, seed, ttft_ms, "
        "tpot_ms, "
        "ignore_eos, "
        "found 'temprature' (did you mean 'temperature'?)");
  CHECK(prompt_fault("{\"prompt\": \"a\", \"prompt\": \"b\"}") ==
        "p.jsonl:1: expected each key once, found 'prompt' again");
}

TEST_CASE("a line may hold a conversation instead of a prompt") {
  std::istringstream in(R"({"messages": [{"role": "system", "content": ""}, {"content": "Hi", "role": "user"}]})");
  const auto read = read_prompts(in, "p.jsonl");
  REQUIRE(read);
  CHECK((*read)[0].prompt.empty());
  CHECK((*read)[0].messages == std::vector<chat_turn>{{"system", ""}, {"user", "Hi"}});
  CHECK(prompt_fault(R"({"prompt": "a", "messages": [{"role": "user", "content": "b"}]})") ==
        "p.jsonl:1: expected the key prompt or messages, found both");
  const std::string expected =
      R"(p.jsonl:1: messages: expected a list of {"role": "system", "user" or "assistant", "content": text}, found )";
  for (const auto* wrong : {"[]", "[1]", R"([{"role": "user"}])", R"([{"role": "tool", "content": "x"}])",
           R"([{"role": "user", "content": 1}])", R"([{"role": "user", "content": ["x"]}])",
           R"([{"role": "user", "content": "x", "name": "y"}])"}) {
    INFO(wrong);
    CHECK(prompt_fault(std::string{R"({"messages": )"} + wrong + "}") == expected + "a list");
  }
  CHECK(prompt_fault(R"({"messages": "x"})") == expected + "\"x\"");
  CHECK(prompt_fault(R"({"messages": [{"role": "user", "role": "user", "content": "x"}]})") ==
        "p.jsonl:1: expected each key once, found 'role' again");
}

TEST_CASE("lines that are no JSON objects are refused") {
  CHECK(prompt_fault("Once upon a time\n") ==
        "p.jsonl:1: expected a JSON object like {\"prompt\": \"...\"}, found plain text");
  CHECK(
      prompt_fault("{\"prompt\": \"a\"}\n{\"prompt\": \n") == "p.jsonl:2: expected JSON, found a mistake at column 12");
  CHECK(prompt_fault("[1]\n") == "p.jsonl:1: expected a JSON object like {\"prompt\": \"...\"}, found a list");
  CHECK(prompt_fault("{\"prompt\": \"\xff\"}\n").find("p.jsonl:1: expected JSON") == 0);
  CHECK(prompt_fault("") == "p.jsonl: expected at least one prompt, found none");
  CHECK(prompt_fault("\n\n") == "p.jsonl: expected at least one prompt, found none");
}

TEST_CASE("a prompt file is bounded in line length, prompts and faults") {
  prompt_limits limits;
  limits.max_line_bytes = 20;
  auto got = prompts_of("{\"prompt\": \"0123456789\"}\n", limits);
  REQUIRE(!got);
  CHECK(got.error().front() == "p.jsonl:1: expected at most 20 bytes on a line, found more; not reading on");
  limits.max_prompts = 2;
  got = prompts_of("{\"prompt\":\"a\"}\n{\"prompt\":\"a\"}\n{\"prompt\":\"a\"}\n", limits);
  REQUIRE(!got);
  CHECK(got.error().front() == "p.jsonl:3: expected at most 2 prompts, found more; not reading on");
  CHECK(prompts_of("{\"prompt\":\"a\"}\n{\"prompt\":\"a\"}\n", limits)->size() == 2);
  std::string wrong;
  for (int i = 0; i < 1000; ++i) wrong += "x\n";
  CHECK(prompts_of(wrong).error().size() == 21);
}

TEST_CASE("a deeply nested line is refused, not recursed into") {
  CHECK(prompt_fault("{\"prompt\": " + std::string(1'000'000, '[')).find("p.jsonl:1: expected JSON") == 0);
  const std::string closed = std::string(500'000, '[') + std::string(500'000, ']');
  CHECK(prompt_fault("{\"prompt\": " + closed + "}").find("p.jsonl:1: prompt: expected text") == 0);
}

TEST_CASE("a missing prompt file is a fault") {
  const auto missing = read_prompt_file("no/such/file.jsonl");
  REQUIRE(!missing);
  CHECK(missing.error().front() == "no/such/file.jsonl: expected a file that can be read, found none");
  CHECK(read_prompt_file("/").error().front() == "/: expected a file that can be read, found a folder");
}

TEST_CASE("mutated prompt files end in prompts or faults") {
  std::mt19937 random(7);
  const std::string good =
      "{\"prompt\": \"b\\u00e9\", \"slo\": \"batch\", \"max_tokens\": 7, \"top_p\": 1e-3}\n{\"prompt\": \"a\"}\n";
  std::size_t taken = 0, refused = 0;
  for (int i = 0; i < 5000; ++i) {
    std::string text = good;
    for (auto edits = 1 + random() % 3; edits > 0; --edits)
      text[random() % text.size()] = static_cast<char>(random() % (i % 2 == 0 ? 256 : 128));
    const auto got = prompts_of(text);
    if (got) {
      for (const prompt_line& p : *got) REQUIRE(!p.prompt.empty());
      ++taken;
    } else {
      REQUIRE(!got.error().empty());
      ++refused;
    }
  }
  CHECK(taken > 100);
  CHECK(refused > 100);
}

TEST_CASE("exit codes are those that scripts know") {
  CHECK(exit_done == 0);
  CHECK(exit_failed == 1);
  CHECK(exit_usage == 2);
}

} // namespace hflex::input_test
