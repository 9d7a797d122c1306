// `hflex profile`: how long steps take on this machine with this model, as a file that head and simulator read.
#include "tools/bench/profile.hpp"
#include "config/loader.hpp"
#include "config/schema.hpp"
#include "gpu/host_device.hpp"
#include "tools/cli/exit_code.hpp"
#include "tools/cli/json_line.hpp"
#include "tools/cli/progress.hpp"
#include "tools/commands/commands.hpp"
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>

namespace hflex::commands {
namespace {

struct profile_flags {
  std::string model;
  std::string out;
  std::string compute{"bf16"};
  gpu::host_context_options device;
  bench::profile_grid grid;
  std::uint32_t kv_memory_mib{512};
  std::uint32_t beside{0};
  std::string beside_work{"decode"};
  output format{output::text};
};

nlohmann::ordered_json to_json(const config::step_profile& p, const step_time_fit& fit) {
  nlohmann::ordered_json j;
  j["device"] = p.device;
  j["isa"] = p.isa;
  j["threads"] = p.threads;
  j["model"] = p.model;
  j["compute"] = p.compute;
  j["steps"] = p.steps;
  j["held_out"] = fit.held_out;
  j["mean_error"] = p.mean_error;
  j["p95_error"] = p.p95_error;
  const auto& m = p.step_time;
  j["step_time"] = {{"c0_ms", m.c0_ms}, {"c1_ms", m.c1_ms}, {"m0", m.m0}, {"c2_ms", m.c2_ms}, {"c3_ms", m.c3_ms},
      {"c4_ms", m.c4_ms}, {"c5_ms", m.c5_ms}, {"safety", m.safety}};
  return j;
}

/// Written beside and renamed: a reader never sees half a file, and a failure leaves the former one.
result<void> write_file(const std::string& path, const std::string& text) {
  const std::string beside = path + ".new";
  {
    std::ofstream file(beside, std::ios::binary | std::ios::trunc);
    file << text;
    if (!file.flush()) return fail(errc::reject, "{}: cannot be written", beside);
  }
  std::error_code failed;
  std::filesystem::rename(beside, path, failed);
  if (failed) return fail(errc::reject, "{}: {}", path, failed.message());
  return {};
}

bench::neighbour_work work_named(const std::string& word) {
  if (word == "prefill") return bench::neighbour_work::prefill;
  return word == "opposite" ? bench::neighbour_work::opposite : bench::neighbour_work::decode;
}

int run_profile(profile_flags& f) {
  f.device.compute = gpu::compute_named(f.compute).value();
  f.device.kv_memory_bytes = std::uint64_t{f.kv_memory_mib} << 20U;
  auto weights = gpu::load_weights(f.model, {});
  if (!weights) return report(weights.error());
  auto context = gpu::make_host_context(*weights, f.device);
  if (!context) return report(context.error());
  std::vector<std::shared_ptr<gpu::device_context>> others;
  for (std::uint32_t i = 0; i < f.beside; ++i) {
    auto other = gpu::make_host_context(*weights, f.device);
    if (!other) return report(other.error());
    others.push_back(std::move(*other));
  }
  bench::busy_neighbours neighbours(std::move(others), work_named(f.beside_work));
  const auto terminal = cli::detect_terminal(2);
  cli::progress progress("measuring steps", terminal, cli::steady_now());
  auto steps = bench::measure_steps(
      **context, f.grid, f.device.max_batched_tokens, neighbours, [&](std::size_t done, std::size_t all) {
        std::fputs(progress.update(done, all, "", cli::steady_now()).c_str(), stderr);
      });
  std::fputs(progress.finish(steps ? "done" : "failed", cli::steady_now()).c_str(), stderr);
  if (!steps) return report(steps.error());
  auto fit = fit_step_time(*steps);
  if (!fit) return report(fit.error());
  const auto& info = (*context)->info();
  const config::step_profile profile{info.name, info.isa, info.threads,
      std::filesystem::path{f.model}.lexically_normal().filename().string(), f.compute,
      static_cast<std::uint32_t>(steps->size()), fit->mean_error, fit->p95_error, fit->model};
  if (!f.out.empty())
    if (auto ok = write_file(f.out, config::written_profile(profile)); !ok) return report(ok.error());
  if (f.format == output::json)
    std::fputs(cli::json_line(to_json(profile, *fit)).c_str(), stdout);
  else
    std::fputs(config::written_profile(profile).c_str(), stdout);
  std::fprintf(stderr,
      "%zu steps; on %zu held-out ones the fit is off by %.1f %% in the mean, %.1f %% at the 95th percentile\n",
      steps->size(), fit->held_out, 100 * fit->mean_error, 100 * fit->p95_error);
  if (!f.out.empty())
    std::fprintf(stderr, "written to %s; use it with instance.profile in the configuration\n", f.out.c_str());
  return cli::exit_done;
}

} // namespace

runner add_profile(CLI::App& app) {
  auto f = std::make_shared<profile_flags>();
  app.add_option("--model", f->model, "Checkpoint")->required();
  app.add_option("--out", f->out, "File to write; without it the profile is only printed");
  app.add_option("--threads", f->device.threads, "Compute threads, 0 = all cores")->capture_default_str();
  app.add_option("--compute", f->compute, "Activations and KV: bf16 or f32 (a CPU has no f16)")
      ->check(CLI::IsMember(std::vector<std::string>(gpu::compute_names.begin(), gpu::compute_names.end())))
      ->capture_default_str();
  app.add_option("--isa", f->device.isa, "Kernels to use instead of this CPU's best");
  app.add_option("--beside", f->beside,
         "Measure beside so many instances that compute all the time, as on a host that runs more than one")
      ->check(CLI::Range(0, 64))
      ->capture_default_str();
  app.add_option("--beside-work", f->beside_work,
         "What they do: decode; prefill; opposite (decode beside prefill and the other way round, as on a host with a "
         "prefill and a decode instance)")
      ->check(CLI::IsMember({"decode", "prefill", "opposite"}))
      ->capture_default_str();
  app.add_option("--kv-memory-mib", f->kv_memory_mib, "KV pool; steps that do not fit it are left out")
      ->check(CLI::Range(1, 1 << 22))
      ->capture_default_str();
  app.add_option("--max-batched-tokens", f->device.max_batched_tokens, "Largest step")
      ->check(CLI::Range(16, 1 << 20))
      ->capture_default_str();
  app.add_option("--prefill", f->grid.prefill, "Chunk sizes of the grid")->delimiter(',')->capture_default_str();
  app.add_option("--decode", f->grid.decode, "Batch sizes of the grid")->delimiter(',')->capture_default_str();
  app.add_option("--context", f->grid.context, "Context lengths of the grid")
      ->delimiter(',')
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str();
  app.add_option("--repeats", f->grid.repeats, "Steps per point; their median counts")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  add_output_option(app, f->format, "text (YAML) or json");
  add_examples(app, "  hflex profile --model DIR --out profile.yaml\n"
                    "  hflex profile --model DIR --threads 1 --beside 1 --out one-of-two.yaml\n"
                    "  hflex profile --model DIR --threads 1 --beside 1 --beside-work opposite --out pd.yaml\n"
                    "  hflex profile --model DIR --threads 2 --prefill 0,64,256 --decode 0,1,8 -o json");
  return [f] { return run_profile(*f); };
}

} // namespace hflex::commands
