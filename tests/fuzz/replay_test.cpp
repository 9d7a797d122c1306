// Runs every fuzz target on seeds, damaged seeds and noise, from a fixed seed and without libFuzzer: a target that no
// longer builds, links or runs is found by the tests, and so is a regression that is not hard to find. The targets
// check what they promise themselves; a broken promise aborts.
#include "actors/wire/instance_options.hpp"
#include "actors/wire/msg.hpp"
#include "gpu/model/chat_template.hpp"
#include "gpu/transport/frame.hpp"
#include "gpu/transport/weights_frame.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/gguf_writer.hpp"
#include "tests/support/model_dir.hpp"
#include <cstring>
#include <map>
#include <random>

#define FUZZ_TARGET(name) extern "C" int fuzz_##name(const std::uint8_t* data, std::size_t size);
#include "fuzz_targets.inc"
#undef FUZZ_TARGET

using namespace hflex;
using namespace hflex::test;

namespace {

struct target {
  std::string name;
  int (*run)(const std::uint8_t*, std::size_t);
};

std::vector<target> all_targets() {
  std::vector<target> out;
#define FUZZ_TARGET(name) out.push_back({#name, &fuzz_##name});
#include "fuzz_targets.inc"
#undef FUZZ_TARGET
  return out;
}

template <class Bytes>
std::string text_of(const Bytes& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::string kv_frames() {
  std::string out;
  for (auto type = gpu::frame_type::hello; type <= gpu::frame_type::have;
       type = static_cast<gpu::frame_type>(static_cast<int>(type) + 1)) {
    gpu::frame_header header;
    header.type = type;
    header.count = 1;
    std::array<std::byte, gpu::frame_header_bytes> bytes{};
    gpu::encode(header, bytes);
    out += text_of(bytes);
  }
  return out;
}

std::string weights_frames() {
  std::string out;
  for (auto type = gpu::weights_frame_type::pull; type <= gpu::weights_frame_type::refuse;
       type = static_cast<gpu::weights_frame_type>(static_cast<int>(type) + 1))
    out += text_of(gpu::encode({type, 0, 1}));
  return out;
}

std::string options_message() {
  const auto message = wire::msg<wire::schema::InstanceOptions>::make([](wire::schema::InstanceOptions::Builder out) {
    wire::instance_options o;
    o.model_dir = "a model";
    wire::write(out, o);
  });
  return {reinterpret_cast<const char*>(message.words().data()), message.words().bytes()};
}

std::string small_gguf() {
  return gguf_writer{}
      .text("general.architecture", "llama")
      .natural("llama.block_count", 1)
      .natural("llama.embedding_length", 64)
      .texts("tokenizer.ggml.tokens", {"a", "b"})
      .tensor("token_embd.weight", {1, 8}, code_of(gpu::dtype::f32), std::string(32, '\1'))
      .bytes();
}

std::string small_safetensors() {
  const std::string header =
      R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"BF16","shape":[2,1],)"
      R"("data_offsets":[4,8]}})";
  return raw<std::uint64_t>(header.size()) + header + "12345678";
}

/// Inputs that a target finds worth reading, by its name; a new target does without until it has some.
std::vector<std::string> seeds_of(const std::string& name) {
  const std::map<std::string, std::vector<std::string>> seeds{
      {"chat", {gpu::chat_template_of_model(demo_model()).value_or(""), "<|im_start|>{{ message }}<|im_end|>"}},
      {"config", {slurp(demo_model() + "/config.json")}},
      {"gguf", {small_gguf()}},
      {"peer", {'\0' + kv_frames(), '\1' + weights_frames(), '\2' + weights_frames(), '\3' + kv_frames(), "\6"}},
      {"safetensors", {small_safetensors()}},
      {"settings", {slurp(HFLEX_SOURCE_DIR "/config/local.yaml")}},
      {"tokenizer", {'\0' + std::string("Don't \xf0\x9f\x98\x80 <tool>"), '\1' + std::string("<0x00>the"),
                        '\2' + std::string(R"({"model":{"type":"BPE","vocab":{"a":0},"merges":[]}})")}},
      {"trace", {"arrival_s,prompt_tokens,output_tokens\n0.5,10,20\n"}},
      {"transport", {'\0' + kv_frames(), '\1' + weights_frames(), '\3' + std::string("tcp:127.0.0.1:80\nweights:::1"),
                        std::string("\4\1\x20\0\0\7\0\7\3", 9)}},
      {"wire", {'\0' + options_message()}},
  };
  const auto found = seeds.find(name);
  return found != seeds.end() ? found->second : std::vector<std::string>{};
}

std::string damaged(std::string text, std::mt19937& random) {
  for (auto edits = 1 + random() % 4; edits > 0 && !text.empty(); --edits) {
    const auto at = random() % text.size();
    switch (random() % 4) {
    case 0:
      text[at] = static_cast<char>(random());
      break;
    case 1:
      text.erase(at, 1 + random() % 16);
      break;
    case 2:
      text.insert(at, text.substr(random() % text.size(), random() % 64));
      break;
    default:
      text.resize(at);
      break;
    }
  }
  return text;
}

std::string noise(std::mt19937& random) {
  std::string out(random() % 200, '\0');
  for (char& c : out) c = static_cast<char>(random());
  return out;
}

} // namespace

TEST_CASE("every fuzz target takes its seeds, damaged seeds and noise") {
  const auto targets = all_targets();
  CHECK(targets.size() >= 10);
  for (const auto& t : targets) {
    std::mt19937 random(7);
    const auto run = [&](const std::string& input) {
      CHECK(t.run(reinterpret_cast<const std::uint8_t*>(input.data()), input.size()) == 0);
    };
    INFO(t.name);
    run({});
    for (const auto& seed : seeds_of(t.name)) {
      run(seed);
      for (int i = 0; i < 20; ++i) run(damaged(seed, random));
    }
    for (int i = 0; i < 40; ++i) run(noise(random));
  }
}
