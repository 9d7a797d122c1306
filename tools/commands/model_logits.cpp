// `hflex model logits`: what the engine computes for a text, in numbers, for comparing it with another engine
// (tests/parity).
#include "gpu/model/chat_template.hpp"
#include "gpu/model/logits.hpp"
#include "gpu/model/tokenizer.hpp"
#include "gpu/weights.hpp"
#include "tools/cli/exit_code.hpp"
#include "tools/cli/json_line.hpp"
#include "tools/commands/commands.hpp"
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <numeric>

namespace hflex::commands {
namespace {

struct logits_flags {
  std::string model;
  std::string prompt;
  std::vector<token_id> tokens;
  bool chat{false};
  bool all{false};
  std::uint32_t last{1};
  std::uint32_t generate{0};
  std::uint32_t top{10};
  gpu::host_context_options device;
  output format{output::text};
};

result<std::vector<token_id>> tokens_of(const logits_flags& f, const gpu::tokenizer& words) {
  if (!f.tokens.empty()) return f.tokens;
  if (!f.chat) return words.encode(f.prompt);
  const auto frame = gpu::chat_template::recognize(gpu::chat_template_of_model(f.model));
  if (!frame) return pass(frame.error());
  return frame->encode(std::vector<gpu::chat_message>{{"user", f.prompt}}, words);
}

result<gpu::logits_answer> compute(const logits_flags& f, const std::vector<token_id>& tokens) {
  auto weights = gpu::load_weights(f.model, {});
  if (!weights) return pass(std::move(weights.error()));
  auto options = f.device;
  options.max_batched_tokens = 512;
  options.kv_blocks =
      static_cast<std::uint32_t>((tokens.size() + f.generate + options.block_size) / options.block_size);
  const auto engine = gpu::llama::make(std::move(*weights), options);
  if (!engine) return pass(engine.error());
  return gpu::logits_of(**engine, {tokens, f.last, f.generate});
}

/// The ids of the `count` largest logits, the largest first, equals by id.
std::vector<token_id> best_of(const std::vector<float>& logits, std::size_t count) {
  std::vector<token_id> ids(logits.size());
  std::iota(ids.begin(), ids.end(), token_id{0});
  const auto end = ids.begin() + static_cast<std::ptrdiff_t>(std::min(count, ids.size()));
  const auto at = [&](token_id id) { return logits[static_cast<std::size_t>(id)]; };
  std::partial_sort(
      ids.begin(), end, ids.end(), [&](token_id a, token_id b) { return at(a) != at(b) ? at(a) > at(b) : a < b; });
  ids.erase(end, ids.end());
  return ids;
}

/// Nine digits tell any two floats apart; a float as a double would print seventeen.
double in_few_digits(float x) { return std::strtod(fmt::format("{:.9g}", x).c_str(), nullptr); }

nlohmann::ordered_json row_json(const logits_flags& f, const gpu::logits_row& row, const gpu::tokenizer& words) {
  nlohmann::ordered_json out{{"position", row.position}, {"best", row.best}};
  if (f.all) {
    auto& logits = out["logits"] = nlohmann::ordered_json::array();
    for (const float x : row.logits) logits.push_back(in_few_digits(x));
    return out;
  }
  auto& top = out["top"] = nlohmann::ordered_json::array();
  for (const auto id : best_of(row.logits, f.top)) {
    top.push_back({{"token", id}, {"text", std::string(words.bytes_of(id))},
        {"logit", in_few_digits(row.logits[static_cast<std::size_t>(id)])}});
  }
  return out;
}

void print_json(const logits_flags& f, const std::vector<token_id>& tokens, const gpu::logits_answer& answer,
    const gpu::tokenizer& words) {
  nlohmann::ordered_json out{{"compute", gpu::name_of(f.device.compute)}, {"tokens", tokens},
      {"continuation", answer.continuation}, {"text", words.decode(answer.continuation)}};
  auto& rows = out["rows"] = nlohmann::ordered_json::array();
  for (const auto& row : answer.rows) rows.push_back(row_json(f, row, words));
  std::fputs(cli::json_line(out).c_str(), stdout);
}

void print_text(const logits_flags& f, const gpu::logits_answer& answer, const gpu::tokenizer& words) {
  for (const auto& row : answer.rows) {
    std::printf("after position %u\n", row.position);
    for (const auto id : best_of(row.logits, f.all ? row.logits.size() : f.top)) {
      const auto text = nlohmann::json(std::string(words.bytes_of(id)));
      std::printf("%12.6f  %7d  %s\n", static_cast<double>(row.logits[static_cast<std::size_t>(id)]), id,
          text.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
    }
  }
  if (!answer.continuation.empty()) std::printf("%s\n", words.decode(answer.continuation).c_str());
}

int logits(const logits_flags& f) {
  if (f.prompt.empty() == f.tokens.empty()) return usage_error("expected a text (-p) or its tokens (--tokens)");
  const auto words = gpu::tokenizer::load(f.model);
  if (!words) return report(words.error());
  const auto tokens = tokens_of(f, **words);
  if (!tokens) return report(tokens.error());
  const auto answer = compute(f, *tokens);
  if (!answer) return report(answer.error());
  if (f.format == output::json)
    print_json(f, *tokens, *answer, **words);
  else
    print_text(f, *answer, **words);
  return cli::exit_done;
}

} // namespace

void add_model_logits(CLI::App& app, const std::shared_ptr<runner>& chosen) {
  auto f = std::make_shared<logits_flags>();
  app.add_option("DIR", f->model, "Checkpoint: a directory or a GGUF file")->required();
  app.add_option("-p,--prompt", f->prompt, "The text");
  app.add_option("--tokens", f->tokens, "The text as ids, instead: 1,2,3")->delimiter(',');
  app.add_flag("--chat", f->chat, "The text is what a user says: frame it by the model's chat template");
  app.add_option("--last", f->last, "Show so many of the text's last positions")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--generate", f->generate, "Go on greedily for so many tokens, and show their positions")
      ->check(CLI::Range(0U, 65536U))
      ->capture_default_str();
  app.add_option("--top", f->top, "Largest logits to show of each position")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_flag("--all", f->all, "Show all logits, in JSON by id");
  app.add_option("--compute", f->device.compute, "Arithmetic of activations: f32 (reference) or bf16; a CPU has no f16")
      ->transform(one_of(std::map<std::string, gpu::compute_type>{
          {"f32", gpu::compute_type::f32}, {"bf16", gpu::compute_type::bf16}, {"f16", gpu::compute_type::f16}}))
      ->option_text("f32|bf16|f16");
  app.add_option("--threads", f->device.threads, "Compute threads, 0 = all cores")->capture_default_str();
  app.add_option("--isa", f->device.isa, "Kernels to use instead of this CPU's best");
  add_output_option(app, f->format);
  add_examples(app, "  hflex model logits examples/models/austen-2.7m -p \"It is a truth\" --generate 8\n"
                    "  hflex model logits /models/mine --tokens 1,450,7483 --all -o json");
  app.callback([f, chosen] { *chosen = [f] { return logits(*f); }; });
}

} // namespace hflex::commands
