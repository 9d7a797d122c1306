// `hflex bench load`: a trace against a live cluster, its own or a running one, under one policy or several.
#include "actors/cluster/topology.hpp"
#include "actors/scheduler/policy.hpp"
#include "gpu/model/model_config.hpp"
#include "tools/bench/load_result.hpp"
#include "tools/bench/own_cluster.hpp"
#include "tools/bench/prompt_maker.hpp"
#include "tools/cli/exit_code.hpp"
#include "tools/cli/json_line.hpp"
#include "tools/cli/progress.hpp"
#include "tools/cli/units.hpp"
#include "tools/commands/serve.hpp"
#include "tools/runtime/process.hpp"
#include "tools/sim/cluster_file.hpp"
#include "tools/sim/result_text.hpp"
#include "tools/sim/workload_builder.hpp"
#include "tools/sim/world.hpp"
#include <charconv>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <limits>
#include <memory>

namespace hflex::commands {
namespace {

namespace s = wire::schema;
using nlohmann::ordered_json;
using wire::msg;

struct load_flags {
  config_flags config;
  head_options head;
  bool running{false}; ///< --head was given: a cluster is there
  std::string sources;
  std::string slo;
  std::vector<std::string> policies{"hyperflexis"};
  std::uint32_t instances{2};
  std::string profile;
  double duration_s{0};
  double compress_s{0};
  double request_rate{0};
  std::size_t requests{0};
  std::size_t max_tokens{0};
  std::vector<std::string> goodput;
  std::vector<std::string> metrics{"ttft", "tpot", "e2el"};
  bool ignore_eos{true};
  double longest_s{600};
  std::string simulate;
  std::string save;
  output format{output::text};
  sim::workload_options workload;
  sim::shape_options shape;
  bench::load_settings settings;
  double goodput_ttft_ms{0};
  double goodput_tpot_ms{0};
};

/// All that is made before a cluster is needed.
struct prepared {
  config::cluster_config config;
  sim::workload load;
  sim::shape_report shaped;
  std::vector<std::string> prompts;
};

/// "ttft:200", "tpot:50"
result<void> parse_goodput(load_flags& f) {
  for (const auto& word : f.goodput) {
    const auto colon = word.find(':');
    const auto name = word.substr(0, colon);
    double ms = 0;
    const char* first = word.data() + (colon == std::string::npos ? word.size() : colon + 1);
    const auto [end, fault] = std::from_chars(first, word.data() + word.size(), ms);
    if ((name != "ttft" && name != "tpot") || fault != std::errc{} || end != word.data() + word.size() || !(ms > 0))
      return fail(errc::reject, "--goodput: expected ttft:MS and tpot:MS, got \"{}\"", word);
    (name == "ttft" ? f.goodput_ttft_ms : f.goodput_tpot_ms) = ms;
  }
  return {};
}

/// Also the simulator's clients are judged by them.
void override_targets(const load_flags& f, std::vector<slo_class>& classes) {
  for (auto& c : classes) {
    if (f.goodput_ttft_ms > 0) c.targets.ttft = from_ms(f.goodput_ttft_ms);
    if (f.goodput_tpot_ms > 0) c.targets.tpot = from_ms(f.goodput_tpot_ms);
  }
}

result<prepared> prepare(load_flags& f) {
  prepared p;
  auto loaded = f.config.load();
  if (!loaded) return fail(errc::reject, "the configuration is at fault");
  p.config = std::move(loaded->config);
  if (p.config.model.empty()) p.config.model = default_model();
  if (auto ok = parse_goodput(f); !ok) return pass(ok.error());
  if (f.slo.empty()) {
    f.workload.classes = p.config.slo.classes;
  } else {
    auto classes = sim::read_classes(f.slo);
    if (!classes) return pass(classes.error());
    f.workload.classes = std::move(*classes);
  }
  override_targets(f, f.workload.classes);
  if (f.workload.default_class.empty() && f.workload.mix.empty()) f.workload.default_class = p.config.slo.default_class;
  if (f.duration_s > 0) f.workload.length = from_s(f.duration_s);
  auto load = sim::build_workload(f.sources, f.workload);
  if (!load) return pass(load.error());
  auto model = gpu::load_model_config(p.config.model);
  if (!model) return pass(model.error());
  auto tokenizer = gpu::tokenizer::load(p.config.model);
  if (!tokenizer) return pass(tokenizer.error());
  auto prompts = bench::prompt_maker::make(*tokenizer);
  if (!prompts) return pass(prompts.error());
  f.shape.seed = f.workload.seed;
  if (f.requests > 0) f.shape.requests = f.requests;
  if (f.compress_s > 0) f.shape.compress_to = from_s(f.compress_s);
  if (f.request_rate > 0) f.shape.request_rate = f.request_rate;
  f.shape.min_prompt_tokens = prompts->fewest_tokens();
  f.shape.context = model->max_context;
  if (f.max_tokens > 0)
    f.shape.context = static_cast<std::uint32_t>(std::min<std::size_t>(f.max_tokens, model->max_context));
  if (*f.shape.context <= f.shape.min_prompt_tokens)
    return fail(errc::reject, "--max-tokens: expected more than {}", f.shape.min_prompt_tokens);
  p.load = std::move(*load);
  p.shaped = sim::shape(p.load, f.shape);
  for (std::size_t i = 0; i < p.load.requests.size(); ++i)
    p.prompts.push_back(prompts->text(p.load.requests[i], i, p.load.prefix_block_tokens));
  return p;
}

std::vector<bench::offered_request> offered(const load_flags& f, const prepared& p) {
  std::vector<bench::offered_request> out;
  for (std::size_t i = 0; i < p.load.requests.size(); ++i) {
    const auto& r = p.load.requests[i];
    const auto& slo = p.load.classes[r.slo_class];
    auto job = msg<s::SubmitJob>::make(
        [&](s::SubmitJob::Builder to) {
          to.setPrompt(p.prompts[i]);
          to.setMaxOutputTokens(r.output_tokens);
          to.setIgnoreEos(f.ignore_eos);
          to.setSloClass(slo.name);
          to.setTtftTargetMs(f.goodput_ttft_ms);
          to.setTpotTargetMs(f.goodput_tpot_ms);
        },
        64 + p.prompts[i].size() / 8);
    out.push_back({r.arrival, std::move(job), slo.targets, slo.name});
  }
  return out;
}

/// Relative paths of the environment would start elsewhere.
std::string absolute(const std::string& path) { return std::filesystem::absolute(path).string(); }

result<bench::own_cluster> start_cluster(const load_flags& f, const std::string& policy) {
  bench::own_cluster_options o;
  o.instances = f.instances;
  o.policy = policy;
  auto& words = o.words;
  if (!f.config.file().empty()) words.insert(words.end(), {"--config", f.config.file()});
  for (const auto& [key, flag] : {std::pair{"mode", "--mode"}, std::pair{"model", "--model"}})
    if (f.config.has(key)) words.insert(words.end(), {flag, f.config.given(key)});
  words.insert(words.end(), {"--log-level", f.config.has("log.level") ? f.config.given("log.level") : "warning"});
  if (!f.profile.empty()) o.environment.push_back("HFLEX_INSTANCE_PROFILE=" + absolute(f.profile));
  if (!f.slo.empty()) o.environment.push_back("HFLEX_SLO_CLASSES_FILE=" + absolute(f.slo));
  return bench::start_own_cluster(o);
}

result<bench::load_run> offer(load_flags& f, const prepared& p, const cli::endpoint& head, const std::string& name) {
  const auto timeout = from_s(f.head.timeout_s);
  auto client = runtime::head_client::connect(head, timeout);
  if (!client) return pass(client.error());
  auto view = wait_for_instances(**client, f.running ? 1 : f.instances, std::chrono::seconds{120}, timeout);
  if (!view) return pass(view.error());
  const auto instances = static_cast<std::uint32_t>(
      std::count_if(view->actors.begin(), view->actors.end(), [](const auto& a) { return a.kind == "instance"; }));
  const auto began = cli::steady_now();
  cli::progress bar(name, cli::detect_terminal(2), began);
  f.settings.longest_end = from_s(f.longest_s);
  f.settings.on_progress = [&](const bench::load_progress& done) {
    std::fputs(bar.update(done.ended, p.load.requests.size(),
                      fmt::format("{} under way, {} tokens", done.sent - done.ended, done.tokens), cli::steady_now())
                   .c_str(),
        stderr);
    const auto signal = runtime::next_signal(duration{0});
    return signal != SIGINT && signal != SIGTERM;
  };
  auto seen = bench::offer_load(**client, offered(f, p), f.settings);
  const auto wall = cli::steady_now() - began;
  std::fputs(bar.finish(seen ? "done" : "stopped", cli::steady_now()).c_str(), stderr);
  if (!seen) return pass(seen.error());
  const auto* mode = p.config.mode == config::serving_mode::disaggregated ? "disaggregated" : "collocated";
  auto result = bench::summed_up(*seen, name, mode, instances, p.load.length(), wall);
  result.rate_scale = p.shaped.rate_scale * f.workload.rate_scale;
  return bench::load_run{name, std::move(result), std::move(*seen), std::nullopt};
}

result<bench::load_run> run_policy(load_flags& f, const prepared& p, const std::string& policy) {
  auto cluster = start_cluster(f, policy);
  if (!cluster) return pass(cluster.error());
  return offer(f, p, cluster->head, policy);
}

/// Hardware that is described like the cluster that is measured.
result<sim::cluster> simulated_hardware(const load_flags& f, const prepared& p) {
  auto hardware = sim::load_cluster(f.simulate);
  if (!hardware) return pass(config::to_error(hardware.error()));
  auto& device = hardware->device;
  if (!f.profile.empty()) {
    auto measured = config::load_profile(f.profile);
    if (!measured) return pass(config::to_error(measured.error()));
    device.steps = measured->step_time;
  }
  auto model = gpu::load_model_config(p.config.model);
  if (!model) return pass(model.error());
  const auto& i = p.config.instance;
  device.max_context = model->max_context;
  device.max_batched_tokens = i.max_batched_tokens;
  device.max_sequences = i.max_sequences;
  const auto bytes = std::uint64_t{2} * model->layers * model->kv_heads * model->head_dim * bytes_of(i.compute);
  device.kv_bytes_per_token = bytes;
  device.kv_tokens =
      i.kv_blocks > 0 ? std::uint64_t{i.kv_blocks} * i.block_size : (std::uint64_t{i.kv_memory_mib} << 20U) / bytes;
  hardware->block_size = i.block_size;
  return std::move(*hardware);
}

/// The same workload in virtual time.
result<sim::run_result> simulate(
    const load_flags& f, const prepared& p, const sim::cluster& hardware, const std::string& policy) {
  sim::run_options o;
  o.scheduler.policy = policy;
  o.disaggregated = p.config.mode == config::serving_mode::disaggregated;
  if (o.disaggregated)
    o.fleet = {{instance_role::prefill, f.instances / 2}, {instance_role::decode, f.instances - f.instances / 2}};
  else
    o.fleet = {{instance_role::mixed, f.instances}};
  o.seed = f.workload.seed;
  o.exact_answers = true;
  return sim::run(hardware, p.load, o);
}

void describe(const load_flags& f, const prepared& p) {
  std::uint64_t prompt = 0, output = 0;
  for (const auto& r : p.load.requests) {
    prompt += r.prompt_tokens;
    output += r.output_tokens;
  }
  const auto n = static_cast<double>(p.load.requests.size());
  std::fprintf(stderr, "%zu of %zu requests over %s, %.2f a second; %.0f prompt and %.0f output tokens in the mean%s\n",
      p.load.requests.size(), p.shaped.offered, cli::human_duration(p.load.length()).c_str(),
      n / std::max(1e-9, to_s(p.load.length())), static_cast<double>(prompt) / n, static_cast<double>(output) / n,
      f.ignore_eos ? "" : " at most");
  if (p.shaped.length_scale < 1 || p.shaped.cut > 0)
    std::fprintf(stderr,
        "lengths are those of the trace times %.4f, as the model's context is %u; %zu requests were cut beyond that\n",
        p.shaped.length_scale, *f.shape.context, p.shaped.cut);
}

ordered_json to_json(const load_flags& f, const prepared& p, const std::vector<bench::load_run>& runs, bool requests) {
  ordered_json j;
  j["bench"] = "load";
  j["trace"] = f.sources;
  j["model"] = p.config.model.substr(p.config.model.find_last_of('/') + 1);
  j["requests"] = p.load.requests.size();
  j["requests_in_trace"] = p.shaped.offered;
  j["length_s"] = to_s(p.load.length());
  j["rate_scale"] = p.shaped.rate_scale * f.workload.rate_scale;
  j["length_scale"] = p.shaped.length_scale;
  j["requests_cut"] = p.shaped.cut;
  j["seed"] = f.workload.seed;
  std::vector<sim::run_result> live, simulated;
  for (const auto& r : runs) {
    live.push_back(r.result);
    if (r.simulated) simulated.push_back(*r.simulated);
  }
  j["runs"] = sim::result_json(live);
  j["ratios"] = bench::ratios_json(runs);
  j["simulated"] = sim::result_json(simulated);
  j["live_to_simulated"] = bench::parity_json(runs);
  if (!requests) return j;
  for (std::size_t i = 0; i < runs.size(); ++i) j["runs"][i]["records"] = bench::requests_json(runs[i]);
  return j;
}

void print(const load_flags& f, const std::vector<bench::load_run>& runs) {
  const auto terminal = cli::detect_terminal(1);
  std::vector<sim::run_result> live;
  for (const auto& r : runs) {
    live.push_back(r.result);
    if (r.simulated) {
      live.push_back(*r.simulated);
      live.back().policy += " (simulated)";
    }
  }
  std::fputs(sim::result_table(live, terminal).c_str(), stdout);
  for (const auto& text : {bench::latency_table(runs, f.metrics, terminal), bench::ratio_table(runs, terminal),
           bench::parity_table(runs, terminal)})
    if (!text.empty()) std::fputs(("\n" + text).c_str(), stdout);
}

result<std::vector<bench::load_run>> run_all(load_flags& f, const prepared& p) {
  std::vector<bench::load_run> runs;
  if (f.running) {
    auto at = cli::parse_endpoint(f.head.head, 7450);
    if (!at) return fail(errc::reject, "--head: {}", at.error().message);
    auto run = offer(f, p, *at, "running cluster");
    if (!run) return pass(run.error());
    runs.push_back(std::move(*run));
    return runs;
  }
  std::optional<sim::cluster> hardware; // before anything is measured: what is wrong with it costs nothing then
  if (!f.simulate.empty()) {
    auto described = simulated_hardware(f, p);
    if (!described) return pass(described.error());
    hardware = std::move(*described);
  }
  for (const auto& policy : f.policies) {
    auto run = run_policy(f, p, policy);
    if (!run) return pass(run.error());
    if (hardware) {
      auto simulated = simulate(f, p, *hardware, policy);
      if (!simulated) return pass(simulated.error());
      run->simulated = std::move(*simulated);
    }
    runs.push_back(std::move(*run));
  }
  return runs;
}

int run_load(load_flags& f) {
  runtime::hold_signals();
  for (const auto& policy : f.policies)
    if (auto known = scheduler::find_policy(policy); !known) return report(known.error());
  auto p = prepare(f);
  if (!p) return report(p.error());
  describe(f, *p);
  auto runs = run_all(f, *p);
  if (!runs) return report(runs.error());
  if (f.format == output::json)
    std::fputs(cli::json_line(to_json(f, *p, *runs, false)).c_str(), stdout);
  else
    print(f, *runs);
  if (f.save.empty()) return cli::exit_done;
  std::ofstream file(f.save, std::ios::binary | std::ios::trunc);
  file << to_json(f, *p, *runs, true).dump(1) << "\n";
  if (!file.flush()) return report({errc::fatal, f.save + ": cannot be written"});
  return cli::exit_done;
}

void add_load_shape(CLI::App& app, load_flags& f) {
  app.add_option("--trace", f.sources,
         "What clients ask, as of hflex simulate: FILE[@CLASS][,from=S,duration=S...],... or synthetic:...")
      ->required();
  app.add_option("--mix", f.workload.mix, "Shares of classes, e.g. interactive:0.3,standard:0.5,batch:0.2");
  app.add_option("--slo-class", f.workload.default_class, "Class of requests that nothing else says one for");
  app.add_option("--slo", f.slo, "SLO classes: a file like config/slo_classes.yaml; the configuration's without");
  app.add_option("--duration-s", f.duration_s, "Leave out what arrives later")->check(number_in(0.001, 1e9));
  app.add_option("--num-prompts,--requests", f.requests, "Keep so many requests, drawn at random over the trace")
      ->check(whole_number());
  auto* scale = app.add_option("--rate-scale", f.workload.rate_scale, "Arrivals so many times as fast as recorded")
                    ->check(number_in(1e-6, 1e6))
                    ->capture_default_str();
  auto* compress = app.add_option("--compress-to-s", f.compress_s, "Arrivals take this long, in the trace's rhythm")
                       ->check(number_in(0.001, 1e6))
                       ->excludes(scale);
  auto* rate =
      app.add_option("--request-rate", f.request_rate, "Made-up arrivals instead, so many a second; inf = all at once")
          ->check(number_in(1e-6, std::numeric_limits<double>::infinity()))
          ->excludes(scale)
          ->excludes(compress);
  app.add_option("--burstiness", f.shape.burstiness, "Of made-up arrivals: 1 = Poisson, less = bursts, more = even")
      ->check(number_in(0.001, 1e6))
      ->needs(rate)
      ->capture_default_str();
  app.add_option("--max-tokens", f.max_tokens, "Prompt and answer together at most (default: the model's context)")
      ->check(CLI::Range(2, 1 << 24));
  app.add_option("--seed", f.workload.seed, "Of draws and prompts")->capture_default_str()->check(whole_number());
}

void add_load_client(CLI::App& app, load_flags& f) {
  app.add_option(
         "--max-concurrency", f.settings.max_concurrency, "Requests under way at a time; 0 = whenever they are due")
      ->check(whole_number())
      ->capture_default_str();
  app.add_option("--goodput", f.goodput, "Targets of all requests instead of their classes': ttft:MS tpot:MS")
      ->expected(1, 2);
  app.add_option("--percentile-metrics", f.metrics, "Latencies to show: ttft,tpot,itl,e2el")
      ->delimiter(',')
      ->check(CLI::IsMember({"ttft", "tpot", "itl", "e2el"}))
      ->capture_default_str();
  app.add_flag("--ignore-eos,!--stop-at-eos", f.ignore_eos,
      "Answers have the trace's length exactly (the default), or end earlier when the model says so");
  app.add_option(
         "--for-s", f.longest_s, "Longest wait for requests after the last one was due; then they count as missed")
      ->check(number_in(0.001, 86400.0))
      ->capture_default_str();
  app.add_option("--save-result", f.save, "Write everything, each request too, into this file (JSON)");
  add_output_option(app, f.format);
}

} // namespace

runner add_bench_load(CLI::App& app) {
  auto f = std::make_shared<load_flags>();
  add_load_shape(app, *f);
  app.add_option("--policy", f->policies, "Scheduling policies: each gets a cluster of its own, one after the other")
      ->delimiter(',')
      ->capture_default_str();
  app.add_option("--instances", f->instances, "Instances of such a cluster, each in a process of its own")
      ->check(CLI::Range(1U, 64U))
      ->capture_default_str();
  f->config.add_file(app);
  f->config.add(app, "--mode", "mode", "collocated or disaggregated");
  f->config.add(app, "--model", "model", "Checkpoint directory or GGUF file (default: the demo model)");
  f->config.add(app, "--log-level", "log.level", "What the clusters say; warning without");
  app.add_option("--profile", f->profile, "Step times that hflex profile measured here, for clusters and simulation")
      ->check(CLI::ExistingFile);
  auto* simulate = app.add_option("--compare-simulation", f->simulate,
      "Run the same in virtual time as well, on hardware like this cluster file's, with the step times of --profile");
  add_load_client(app, *f);
  auto* head = app.add_option("--head", f->head.head, "Load this running cluster instead; --model is for its tokenizer")
                   ->excludes(simulate);
  app.add_option("--timeout-s", f->head.timeout_s, "Longest wait for an answer of the head, in seconds")
      ->capture_default_str()
      ->check(number_in(0.001, 86400.0));
  add_examples(app, "  hflex bench load --trace synthetic:poisson,rate=10,duration=30,prompt=200,output=50 --policy "
                    "round_robin,hyperflexis\n"
                    "  hflex bench load --trace conv.csv.gz --num-prompts 2000 --compress-to-s 180 --policy "
                    "least_loaded,hyperflexis \\\n"
                    "    --mix interactive:0.5,standard:0.5 --save-result result.json\n"
                    "  hflex bench load --head 127.0.0.1:7450 --trace code.csv.gz --duration-s 60 --goodput ttft:200 "
                    "tpot:50 -o json");
  return [f, head] {
    f->running = head->count() > 0;
    return run_load(*f);
  };
}

} // namespace hflex::commands
