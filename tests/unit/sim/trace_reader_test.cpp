// Trace formats, by content; what hostile files are told.
#include "tests/unit/sim/says.hpp"
#include "tools/sim/trace_reader.hpp"
#include <filesystem>
#include <fstream>
#include <zlib.h>

namespace hflex::trace_reader_test {

using namespace hflex::sim;
using std::chrono::milliseconds;

namespace {

trace must_parse(std::string_view text, const trace_window& window = {}) {
  auto t = parse_trace(text, "t.csv", window);
  if (!t) FAIL(t.error().message);
  return *t;
}

std::string refusal(std::string_view text, const trace_limits& limits = {}) {
  const auto t = parse_trace(text, "t.csv", {}, limits);
  REQUIRE_FALSE(t.has_value());
  CHECK(t.error().code == errc::reject);
  return t.error().message;
}

/// A file in the build folder that is gone when the test ends.
struct scratch_file {
  std::string path;
  explicit scratch_file(const std::string& name) : path(std::string{HFLEX_BINARY_DIR} + "/" + name) {}
  ~scratch_file() { std::filesystem::remove(path); }
  scratch_file(const scratch_file&) = delete;
  scratch_file& operator=(const scratch_file&) = delete;

  void write(const std::string& bytes) const { std::ofstream(path, std::ios::binary) << bytes; }
  void zip(const std::string& text) const {
    gzFile to = gzopen(path.c_str(), "wb");
    REQUIRE(to != nullptr);
    gzwrite(to, text.data(), static_cast<unsigned>(text.size()));
    gzclose(to);
  }
};

const std::string plain = "arrival_s,prompt_tokens,output_tokens\n0.5,100,10\n1.25,200,20\n";

} // namespace

TEST_CASE("a trace of ours is read by its columns, in whatever order and company") {
  const trace t = must_parse("\xef\xbb\xbfslo_class,output_tokens,other,arrival_s,session_id,prompt_tokens\r\n"
                             "chat,10,x,0.5,s1,100\r\n"
                             "\r\n"
                             "\"code\",20.0,\"a,b\",0.25,s2,200\r\n");
  REQUIRE(t.rows.size() == 2);
  CHECK(t.rows[0].arrival == milliseconds{250}); // sorted
  CHECK(t.rows[0].slo_class == "code");
  CHECK(t.rows[0].session == "s2");
  CHECK(t.rows[0].output_tokens == 20);
  CHECK(t.rows[0].line == 4);
  CHECK(t.rows[1].arrival == milliseconds{500});
  CHECK(t.rows[1].prompt_tokens == 100);
}

TEST_CASE("rows that arrive together stay in the file's order") {
  const trace t = must_parse("arrival_s,prompt_tokens,output_tokens\n2,1,1\n1,2,1\n1,3,1\n1,4,1\n");
  REQUIRE(t.rows.size() == 4);
  CHECK(t.rows[0].prompt_tokens == 2);
  CHECK(t.rows[1].prompt_tokens == 3);
  CHECK(t.rows[2].prompt_tokens == 4);
}

TEST_CASE("spread arrivals count instead of those in batches") {
  const trace t = must_parse("arrival_s,arrival_spread_s,prompt_tokens,output_tokens\n0,0.087,5,1\n");
  CHECK(t.rows.at(0).arrival == milliseconds{87});
}

TEST_CASE("prefix blocks are read from runs, and their size told from what they must fit into") {
  const std::string header = "arrival_s,prompt_tokens,output_tokens,prefix_block_ids\n";
  const trace wide = must_parse(header + "0,1100,1,0;65-66\n1,10,1,\n2,1024,1,7\n");
  CHECK(wide.rows[0].prefix_blocks == std::vector<std::uint64_t>{0, 65, 66});
  CHECK(wide.rows[1].prefix_blocks.empty());
  CHECK(wide.prefix_block_tokens == 512);
  CHECK(must_parse(header + "0,200,1,1-3\n").prefix_block_tokens == 64);
  CHECK(must_parse(header + "0,1,1,1-1000\n").prefix_block_tokens == 16);
}

TEST_CASE("an answer without a token counts as one token") {
  CHECK(must_parse("arrival_s,prompt_tokens,output_tokens\n0,5,0\n").rows[0].output_tokens == 1);
}

TEST_CASE("a window keeps what arrives in it and begins at its start") {
  const trace t = must_parse("arrival_s,prompt_tokens,output_tokens\n1,1,1\n2,2,1\n3,3,1\n4,4,1\n",
      {std::chrono::seconds{2}, std::chrono::seconds{2}});
  REQUIRE(t.rows.size() == 2);
  CHECK(t.rows[0].prompt_tokens == 2);
  CHECK(t.rows[0].arrival == duration{0});
  CHECK(t.rows[1].arrival == std::chrono::seconds{1});
}

TEST_CASE("Azure's own format is read as it is") {
  const trace t = must_parse("TIMESTAMP,ContextTokens,GeneratedTokens\n"
                             "2023-12-31 23:59:59.9799600,374,44\n"
                             "2024-01-01 00:00:01.0000001,396,109\n"
                             "2023-12-31 23:59:59.5000000,1,2\n"
                             "2024-03-01 00:00:00+00:00,8,9\n");
  REQUIRE(t.rows.size() == 4);
  CHECK(t.rows[0].prompt_tokens == 1); // the earliest begins, though the file does not begin with it
  CHECK(t.rows[0].arrival == duration{0});
  CHECK(t.rows[1].arrival == duration{479'960'000});
  CHECK(t.rows[2].arrival == duration{1'500'000'100});
  CHECK(t.rows[3].arrival == std::chrono::hours{24 * 60} + milliseconds{500}); // 2024 has a 29 February
}

TEST_CASE("Mooncake's own format is read as it is") {
  const trace t =
      must_parse("{\"timestamp\": 27482, \"input_length\": 6955, \"output_length\": 52, \"hash_ids\": [46, 47]}\n"
                 "{\"timestamp\": 0, \"input_length\": 5, \"output_length\": 1}\n");
  REQUIRE(t.rows.size() == 2);
  CHECK(t.rows[1].arrival == milliseconds{27482});
  CHECK(t.rows[1].prompt_tokens == 6955);
  CHECK(t.rows[1].prefix_blocks == std::vector<std::uint64_t>{46, 47});
  CHECK(t.prefix_block_tokens == 512);
}

TEST_CASE("a faulty line is named with what was expected") {
  const std::string header = "arrival_s,prompt_tokens,output_tokens\n";
  CHECK(refusal(header + "0,1,1\nx,1,1\n") == "t.csv:3: expected seconds from 0 to 1e9 as arrival, found 'x'");
  for (const char* arrival : {"nan", "inf", "-1", "1e300", "", "0x10", "1 2"})
    CHECK(says(refusal(header + arrival + ",1,1\n"), "t.csv:2: expected seconds"));
  for (const char* tokens : {"0", "-5", "16777217", "99999999999999999999999", "nan", "1.5", "", "1e3"})
    CHECK(says(refusal(header + "0," + tokens + ",1\n"), "t.csv:2: expected from 1 to 16777216 prompt tokens"));
  CHECK(refusal(header + "0,1\n") == "t.csv:2: expected 3 cells as in the header, found 2");
  CHECK(says(refusal(header + "0,1,1,\n"), "found 4"));
}

TEST_CASE("a header that is nearly right is told how") {
  CHECK(says(refusal("arrival_s,promt_tokens,output_tokens\n"), "did you mean 'prompt_tokens'?"));
  CHECK(says(refusal("t_s,rps_mid\n0,1\n"), "rates=FILE:COLUMN"));
  CHECK(says(refusal("prompt_tokens,output_tokens\n1,1\n"), "lengths=FILE"));
  CHECK(says(refusal("service,field,percentile,tokens\n"), "lengths=FILE"));
  CHECK(says(refusal("arrival_s,prompt_tokens,output_tokens,arrival_s\n"), "each column once, found 'arrival_s'"));
}

TEST_CASE("texts without a row are refused") {
  CHECK(refusal("") == "t.csv: expected a trace, found an empty file");
  CHECK(refusal("\n \n") == "t.csv: expected a trace, found an empty file");
  CHECK(refusal("arrival_s,prompt_tokens,output_tokens\n") == "t.csv: expected at least one row, found none");
  const auto outside = parse_trace(plain, "t.csv", {std::chrono::seconds{100}, {}});
  REQUIRE_FALSE(outside.has_value());
  CHECK(says(outside.error().message, "expected rows between 100 s"));
}

TEST_CASE("wrong dates, runs and JSON are refused, not guessed") {
  const std::string azure = "TIMESTAMP,ContextTokens,GeneratedTokens\n";
  for (const char* when :
      {"2023-13-16 18:17:03.97", "1023-11-16 18:17:03", "2023-11-16 25:17:03", "2023-11-16", "2023-11-16 18:17:03.",
          "2023-11-16 18:17:03.1234567890", "2023-11-16 18:17:03x", "2023-11-16 18:17:05.55555555555555555555555", ""})
    CHECK(says(refusal(azure + when + ",1,1\n"), "t.csv:2: expected a time"));
  const std::string blocks = "arrival_s,prompt_tokens,output_tokens,prefix_block_ids\n0,1,1,";
  for (const char* runs : {"5-3", "a", "1-", "-1", "1--2", "1;;2"})
    CHECK(says(refusal(blocks + runs + "\n"), "t.csv:2: expected runs"));
  CHECK(says(refusal(blocks + "0-18446744073709551615\n"), "at most 2^20 block ids"));
  const std::string good = "{\"timestamp\": 0, \"input_length\": 5, \"output_length\": 1}\n";
  CHECK(says(refusal(good + "{\"timestamp\": 0\n"), "t.csv:2: expected a JSON object"));
  CHECK(says(refusal(good + "[]\n"), "t.csv:2: expected a JSON object"));
  CHECK(says(
      refusal("{\"timestamp\": 0, \"input_length\": 0, \"output_length\": 1}\n"), "input_length: a number from 1"));
  CHECK(says(refusal("{\"timestamp\": \"x\", \"input_length\": 1, \"output_length\": 1}\n"), "timestamp: a number"));
  CHECK(says(refusal("{\"timestamp\": 0, \"input_length\": 1, \"output_length\": 1, \"hash_ids\": [-1]}\n"),
      "hash_ids: a list of whole numbers"));
}

TEST_CASE("reading is bounded in rows, block ids, bytes and the length of a line") {
  const std::string header = "arrival_s,prompt_tokens,output_tokens,prefix_block_ids\n";
  trace_limits limits;
  limits.max_rows = 1;
  CHECK(says(refusal(header + "0,1,1,\n0,1,1,\n", limits), "t.csv:3: expected at most 1 rows"));
  limits = {};
  limits.max_prefix_blocks = 10;
  CHECK(says(refusal(header + "0,1,1,0-5\n0,1,1,0-5\n", limits), "t.csv:3: expected at most 10 block"));
  limits = {};
  limits.lines.max_line_bytes = 60;
  CHECK(says(refusal(header + std::string(61, 'x'), limits), "t.csv:2: expected lines of at"));
  limits.lines.max_bytes = 10;
  CHECK(says(refusal(header, limits), "expected at most 10 bytes"));
}

TEST_CASE("a compressed trace reads as the plain one") {
  const scratch_file zipped("trace_test.csv.gz");
  zipped.zip(plain);
  const scratch_file as_is("trace_test.csv");
  as_is.write(plain);
  for (const std::string& path : {zipped.path, as_is.path}) {
    const auto t = read_trace(path);
    if (!t) FAIL(t.error().message);
    REQUIRE(t->rows.size() == 2);
    CHECK(t->rows[1].arrival == milliseconds{1250});
  }
}

TEST_CASE("a compressed trace that ends early or is damaged is refused") {
  const scratch_file file("trace_cut.csv.gz");
  std::string text = "arrival_s,prompt_tokens,output_tokens\n";
  for (int i = 0; i < 2000; ++i)
    text += std::to_string(i * 37 % 1009) + "," + std::to_string(1 + i * 91 % 4093) + ",7\n";
  file.zip(text);
  std::ifstream in(file.path, std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>{in}, {}};
  file.write(bytes.substr(0, bytes.size() / 2));
  const auto cut = read_trace(file.path);
  REQUIRE_FALSE(cut.has_value());
  CHECK(says(cut.error().message, "cut off"));
  std::string damaged = bytes;
  damaged[bytes.size() / 2] = static_cast<char>(damaged[bytes.size() / 2] ^ 0x55);
  file.write(damaged);
  CHECK_FALSE(read_trace(file.path).has_value());
}

TEST_CASE("a small file that unfolds to a huge one is refused early") {
  const scratch_file bomb("trace_bomb.csv.gz");
  bomb.zip("arrival_s,prompt_tokens,output_tokens\n" + std::string(std::size_t{40} << 20U, '\n'));
  const auto t = read_trace(bomb.path);
  REQUIRE_FALSE(t.has_value());
  CHECK(says(t.error().message, "unfolds to over"));
}

TEST_CASE("a file that is none is told so") {
  const auto missing = read_trace("no/such/trace.csv");
  REQUIRE_FALSE(missing.has_value());
  CHECK(missing.error().message == "no/such/trace.csv: expected a file that can be read, found none");
  const auto folder = read_trace(HFLEX_BINARY_DIR);
  REQUIRE_FALSE(folder.has_value());
  CHECK(says(folder.error().message, "found a folder"));
}

} // namespace hflex::trace_reader_test
