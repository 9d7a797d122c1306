// `hflex bench`: the measurements behind the project's claims about speed.
#include "tools/bench/engine.hpp"
#include "tools/cli/table.hpp"
#include "tools/cli/units.hpp"
#include "tools/commands/bench_output.hpp"
#include <cstdio>
#include <memory>

namespace hflex::commands {
namespace {

struct engine_flags {
  bench::engine_options options;
  std::string compute{"bf16"};
  double seconds{1.5};
  output format{output::text};
};

nlohmann::ordered_json engine_json(const bench::engine_report& r) {
  nlohmann::ordered_json all;
  all["bench"] = "engine";
  all["model"] = r.model;
  all["device"] = r.device.name;
  all["isa"] = r.device.isa;
  all["threads"] = r.device.threads;
  all["weight_bytes"] = r.weight_bytes;
  all["read_gb_s_ceiling"] = r.most.read_gb_s;
  all["gflop_s_ceiling"] = r.most.gflop_s;
  auto points = nlohmann::ordered_json::array();
  for (const auto& p : r.points) {
    nlohmann::ordered_json j;
    j["phase"] = p.phase;
    j["batch"] = p.batch;
    j["context"] = p.context;
    j["steps"] = p.steps;
    j["step_ms"] = p.step_ms;
    j["tokens_per_s"] = p.tokens_per_s;
    j["gb_s"] = p.gb_s;
    j["gflop_s"] = p.gflop_s;
    j["share_of_read_ceiling"] = p.share_of_read;
    j["share_of_flop_ceiling"] = p.share_of_flops;
    points.push_back(j);
  }
  all["points"] = points;
  return all;
}

void show_engine(const bench::engine_report& r) {
  const auto right = cli::align::right;
  cli::table table({{"PHASE"}, {"BATCH", right}, {"CONTEXT", right}, {"STEP", right}, {"TOKENS/S", right},
      {"GB/S", right}, {"OF READ", right}, {"GFLOP/S", right}, {"OF PEAK", right}});
  for (const auto& p : r.points)
    table.add(
        {p.phase, std::to_string(p.batch), std::to_string(p.context), cli::human_duration(from_s(p.step_ms / 1e3)),
            fmt::format("{:.0f}", p.tokens_per_s), fmt::format("{:.1f}", p.gb_s), cli::human_percent(p.share_of_read),
            fmt::format("{:.0f}", p.gflop_s), cli::human_percent(p.share_of_flops)});
  std::printf("%s, %u threads, %s, weights %s; this machine: %.1f GB/s read, %.0f GFLOP/s\n", r.device.isa.c_str(),
      r.device.threads, r.model.c_str(), cli::human_bytes(r.weight_bytes).c_str(), r.most.read_gb_s, r.most.gflop_s);
  std::fputs(table.render(cli::detect_terminal(1)).c_str(), stdout);
}

int run_engine(engine_flags& f) {
  f.options.device.compute = gpu::compute_named(f.compute).value();
  f.options.per_point = from_s(f.seconds);
  live_line line;
  auto report = bench::measure_engine(f.options, [&](const bench::engine_point& p) {
    line.show(fmt::format("{}, batch {}, context {}: {:.0f} tokens/s", p.phase, p.batch, p.context, p.tokens_per_s));
  });
  line.clear();
  return finish_bench(report, f.format, engine_json, show_engine);
}

runner add_engine(CLI::App& app) {
  auto f = std::make_shared<engine_flags>();
  auto* model = app.add_option("--model", f->options.model, "Checkpoint");
  app.add_option(
         "--shape", f->options.shape, "Random weights in the shape of a published model, when no --model is given")
      ->check(CLI::IsMember(bench::shape_names()))
      ->capture_default_str()
      ->excludes(model);
  app.add_option("--batch", f->options.batches, "Sequences in a decode step")
      ->delimiter(',')
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  app.add_option("--prompt", f->options.prompts, "Prompt lengths of prefill, contexts of decode")
      ->delimiter(',')
      ->check(CLI::Range(1, 131072))
      ->capture_default_str();
  app.add_option("--threads", f->options.device.threads, "Compute threads, 0 = all cores")->capture_default_str();
  app.add_option("--isa", f->options.device.isa, "Kernels to use instead of this CPU's best");
  app.add_option("--compute", f->compute, "Activations and KV: bf16 or f32 (a CPU has no f16)")
      ->check(CLI::IsMember(std::vector<std::string>(gpu::compute_names.begin(), gpu::compute_names.end())))
      ->capture_default_str();
  app.add_option("--seconds", f->seconds, "Time to spend on each point")
      ->check(number_in(0.01, 3600.0))
      ->capture_default_str();
  add_output_option(app, f->format);
  add_examples(app, "  hflex bench engine\n  hflex bench engine --model DIR --batch 1,8,32 --prompt 512 -o json\n"
                    "  hflex bench engine --shape llama-3.2-1b --isa avx2");
  return [f] { return run_engine(*f); };
}

} // namespace

runner add_bench(CLI::App& app) {
  app.require_subcommand(1);
  auto chosen = std::make_shared<runner>();
  auto* engine =
      app.add_subcommand("engine", "Prefill and decode speed of the CPU engine against the machine's ceilings");
  engine->callback([run = add_engine(*engine), chosen] { *chosen = run; });
  auto* load = app.add_subcommand("load", "A trace against a live cluster, under one scheduling policy or several");
  load->callback([run = add_bench_load(*load), chosen] { *chosen = run; });
  auto* role = app.add_subcommand("role", "What changes of role cost a cluster that serves under full load");
  role->callback([run = add_bench_role(*role), chosen] { *chosen = run; });
  auto* scheduler =
      app.add_subcommand("scheduler", "How fast the scheduler decides, by size of the fleet and of its queue");
  scheduler->callback([run = add_bench_scheduler(*scheduler), chosen] { *chosen = run; });
  auto* weights =
      app.add_subcommand("weights", "How long a new instance takes to serve, by where its weights come from");
  weights->callback([run = add_bench_weights(*weights), chosen] { *chosen = run; });
  add_examples(app, "  hflex bench engine --help\n  hflex bench load --help\n  hflex bench role --flips 20\n"
                    "  hflex bench scheduler --help\n  hflex bench weights --newcomers 1,4");
  return [chosen] { return (*chosen)(); };
}

} // namespace hflex::commands
