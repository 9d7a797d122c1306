// `hflex model info` and `hflex model check`: what a checkpoint is, and whether it will load. `hflex model logits` is
// in model_logits.cpp.
#include "gpu/model/model_info.hpp"
#include "tools/cli/exit_code.hpp"
#include "tools/cli/json_line.hpp"
#include "tools/cli/units.hpp"
#include "tools/commands/serve.hpp"
#include <cstdio>
#include <memory>

namespace hflex::commands {
namespace {

struct model_flags {
  std::string dir;
  output format{output::text};
};

void add_flags(CLI::App& app, model_flags& f) {
  app.add_option(
         "DIR", f.dir, "Checkpoint: a directory (config.json, model.safetensors, tokenizer.json) or a GGUF file")
      ->required();
  add_output_option(app, f.format);
}

int info(const model_flags& f) {
  auto summary = gpu::summarize_model(f.dir);
  if (!summary) return report({errc::retry, summary.error().message});
  const auto& c = summary->config;
  if (f.format == output::json) {
    std::fputs(
        cli::json_line(
            {{"architecture", c.architecture}, {"parameters", summary->parameters}, {"layers", c.layers},
                {"hidden", c.hidden}, {"intermediate", c.intermediate}, {"heads", c.heads}, {"kv_heads", c.kv_heads},
                {"head_dim", c.head_dim}, {"vocab", c.vocab}, {"max_context", c.max_context},
                {"uncut_context", c.uncut_context}, {"tied_embeddings", c.tie_embeddings},
                {"tensors", summary->tensors}, {"tokenizer_vocab", summary->tokenizer_vocab},
                {"weights_bytes", summary->weights_bytes}, {"kv_bytes_per_token", summary->kv_bytes_per_token}})
            .c_str(),
        stdout);
    return cli::exit_done;
  }
  std::printf("architecture  %s\n", c.architecture.c_str());
  std::printf("parameters    %s in %llu tensors\n",
      fmt::format("{:.3f} M", static_cast<double>(summary->parameters) * 1e-6).c_str(),
      static_cast<unsigned long long>(summary->tensors));
  std::printf("shape         %u layers, hidden %u, ffn %u, %u heads (%u kv) of %u%s\n", c.layers, c.hidden,
      c.intermediate, c.heads, c.kv_heads, c.head_dim, c.tie_embeddings ? ", tied embeddings" : "");
  std::printf("vocabulary    %u (tokenizer %u)\n", c.vocab, summary->tokenizer_vocab);
  std::printf("context       %u tokens\n", c.max_context);
  if (c.uncut_context != 0)
    std::printf("note          %u positions are cut to the sliding window: attention past it is not supported\n",
        c.uncut_context);
  std::printf("memory        %s weights, %s KV per 1,024 tokens (bf16)\n",
      cli::human_bytes(summary->weights_bytes).c_str(), cli::human_bytes(summary->kv_bytes_per_1k_tokens()).c_str());
  for (const auto& share : summary->dtypes)
    std::printf("stored as     %-5s %s in %llu tensors\n", std::string(gpu::to_string(share.type)).c_str(),
        cli::human_bytes(share.bytes).c_str(), static_cast<unsigned long long>(share.tensors));
  for (const auto& file : summary->files)
    std::printf("file          %-24s %s\n", file.name.c_str(), cli::human_bytes(file.bytes).c_str());
  return cli::exit_done;
}

int check(const model_flags& f) {
  if (f.format == output::json) {
    const auto faults = gpu::check_model(f.dir);
    std::fputs(cli::json_line({{"ok", faults.empty()}, {"faults", faults}}).c_str(), stdout);
    return faults.empty() ? cli::exit_done : cli::exit_failed;
  }
  if (!model_loads(f.dir)) return cli::exit_failed;
  std::printf("%s will load\n", f.dir.c_str());
  return cli::exit_done;
}

} // namespace

runner add_model(CLI::App& app) {
  auto f = std::make_shared<model_flags>();
  auto chosen = std::make_shared<runner>();
  app.require_subcommand(1);
  auto* about = app.add_subcommand("info", "Shape, size and memory needed");
  add_flags(*about, *f);
  add_examples(*about, "  hflex model info examples/models/austen-2.7m\n  hflex model info model.gguf -o json");
  about->callback([f, chosen] { *chosen = [f] { return info(*f); }; });
  auto* will_load = app.add_subcommand("check", "Every fault that keeps it from loading");
  add_flags(*will_load, *f);
  add_examples(*will_load, "  hflex model check /models/mine\n  hflex model check /models/mine -o json");
  will_load->callback([f, chosen] { *chosen = [f] { return check(*f); }; });
  add_model_logits(*app.add_subcommand("logits", "What the engine computes for a text, in numbers"), chosen);
  add_examples(app, "  hflex model info examples/models/austen-2.7m\n  hflex model check /models/mine -o json");
  return [chosen] { return (*chosen)(); };
}

} // namespace hflex::commands
