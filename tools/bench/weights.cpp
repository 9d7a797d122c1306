#include "tools/bench/weights.hpp"
#include "tools/bench/engine.hpp"
#include "tools/bench/model_maker.hpp"
#include "tools/bench/prompt_maker.hpp"
#include "tools/bench/weights_loads.hpp"
#include <algorithm>
#include <filesystem>
#include <thread>

namespace hflex::bench {
namespace {

/// Of a few tokens: the first token comes as soon as there are weights.
const std::string short_prompt = "It is a truth";

/// How the newcomers of a point are set up.
struct scenario {
  std::string path;
  bool seed{true};        ///< an instance runs before them: the live neighbour
  bool same_agent{false}; ///< they start on its agent
  bool same_host{false};  ///< on agents of its host; else each is a host of its own
  bool cold{false};       ///< the page cache is dropped first
  std::uint32_t link_mib_s{0};
  std::string prompt{short_prompt};
  bool while_loading{false}; ///< they do not wait for the last of their weights
};

class start_runner {
public:
  start_runner(const weights_options& o, std::string dir) : o_(o), dir_(std::move(dir)) {}

  result<start_point> measure(const scenario& s, std::uint32_t newcomers) {
    std::optional<start_point> best;
    for (std::uint32_t i = 0; i < o_.repeats; ++i) {
      auto point = measure_once(s, newcomers);
      if (!point) return point;
      if (!best || point->all_ready_ms < best->all_ready_ms) best = std::move(*point);
    }
    return *best;
  }

  result<double> first_token_ms(const scenario& s) {
    std::optional<double> best;
    for (std::uint32_t i = 0; i < o_.repeats; ++i) {
      auto point = measure_once(s, 1);
      if (!point) return pass(point.error());
      best = std::min(best.value_or(point->first_token_ms), point->first_token_ms);
    }
    return *best;
  }

private:
  result<start_point> measure_once(const scenario& s, std::uint32_t newcomers) {
    auto cluster = weights_cluster::start(dir_);
    if (!cluster) return pass(cluster.error());
    auto& c = **cluster;
    const auto threads = o_.threads > 0 ? o_.threads : std::max(1U, std::thread::hardware_concurrency());
    const auto devices = o_.device == "cpu" ? fmt::format("cpu:{}", threads) : o_.device;
    std::vector<std::size_t> agents;
    if (s.seed) {
      auto first = c.add_agent({"seed", devices, s.link_mib_s, false});
      if (!first) return pass(first.error());
      if (auto started = c.start_instances({*first}, {}); !started) return pass(started.error());
      c.retire_running();
      if (s.same_agent) agents.assign(newcomers, *first);
    }
    while (agents.size() < newcomers) {
      auto agent = c.add_agent(
          {s.same_host ? "seed" : fmt::format("host-{}", agents.size()), devices, s.link_mib_s, s.while_loading});
      if (!agent) return pass(agent.error());
      agents.push_back(*agent);
    }
    if (s.cold) drop_from_page_cache(dir_);
    auto starts = c.start_instances(agents, s.prompt);
    if (!starts) return pass(starts.error());
    return summed(s.path, std::move(*starts));
  }

  static start_point summed(const std::string& path, std::vector<start_parts> starts) {
    start_point p{path, static_cast<std::uint32_t>(starts.size()), std::move(starts), 0, 0, 0, {}};
    p.first_token_ms = p.starts.front().first_token;
    for (const auto& s : p.starts) {
      p.all_weights_ms = std::max(p.all_weights_ms, s.plan + s.weights);
      p.all_ready_ms = std::max(p.all_ready_ms, s.ready);
      p.first_token_ms = std::min(p.first_token_ms, s.first_token);
    }
    return p;
  }

  const weights_options& o_;
  std::string dir_;
};

void measure_starts(const weights_options& o, const std::string& dir, weights_report& report,
    const std::function<void(const std::string&)>& on_progress) {
  start_runner run(o, dir);
  const auto add = [&](const scenario& s, std::uint32_t n) {
    on_progress(fmt::format("{} newcomers, {}", n, s.path));
    auto point = run.measure(s, n);
    report.starts.push_back(point ? std::move(*point) : start_point{s.path, n, {}, 0, 0, 0, point.error().message});
  };
  add({"disk cold", false, false, false, true, 0}, 1);
  add({"disk warm", false, false, false, false, 0}, 1);
  add({"host cache", true, true, true, false, 0}, 1);
  for (const auto n : o.newcomers) add({"shared memory", true, false, true, false, 0}, n);
  for (const auto n : o.newcomers) add({"TCP over loopback", true, false, false, false, 0}, n);
  for (const auto n : o.newcomers)
    add({fmt::format("TCP, {} MiB/s links", o.link_mib_s), true, false, false, false, o.link_mib_s}, n);
}

result<void> measure_serving(const weights_options& o, const std::string& dir, weights_report& report,
    const std::function<void(const std::string&)>& on_progress) {
  auto tokenizer = gpu::tokenizer::load(dir);
  if (!tokenizer) return pass(tokenizer.error());
  auto prompts = prompt_maker::make(*tokenizer);
  if (!prompts) return pass(prompts.error());
  sim::request longer;
  longer.prompt_tokens = std::max(o.prompt_tokens, prompts->fewest_tokens());
  start_runner run(o, dir);
  for (const auto mib_s : {std::uint32_t{0}, o.link_mib_s})
    for (const auto& prompt : {short_prompt, prompts->text(longer, 0, longer.prompt_tokens)}) {
      serving_point p;
      p.link = mib_s == 0 ? "TCP over loopback" : fmt::format("TCP, {} MiB/s links", mib_s);
      p.prompt_tokens = static_cast<std::uint32_t>((*tokenizer)->encode(prompt).size());
      on_progress(fmt::format("serving while loading, {}, {} tokens", p.link, p.prompt_tokens));
      scenario s{p.link, true, false, false, false, mib_s, prompt, false};
      const auto waiting = run.first_token_ms(s);
      s.while_loading = true;
      const auto loading = run.first_token_ms(s);
      p.waiting_ms = waiting.value_or(0);
      p.while_loading_ms = loading.value_or(0);
      if (!waiting || !loading) p.fault = (waiting ? loading : waiting).error().message;
      report.serving.push_back(std::move(p));
    }
  return {};
}

} // namespace

result<weights_report> measure_weights(
    const weights_options& options, const std::function<void(const std::string&)>& on_progress) {
  weights_report report;
  std::optional<temporary_folder> made;
  std::string dir = options.model;
  report.model = dir;
  if (dir.empty()) {
    auto shape = shape_config(options.shape);
    if (!shape) return pass(shape.error());
    auto folder = temporary_folder::make();
    if (!folder) return pass(folder.error());
    made.emplace(std::move(*folder));
    dir = made->path();
    report.model = options.shape + " (random weights)";
    on_progress("writing a checkpoint");
    if (auto ok = write_checkpoint(dir, *shape, options.tokenizer_from); !ok) return pass(ok.error());
  }
  if (auto ok = measure_serving(options, dir, report, on_progress); !ok) return pass(ok.error());
  if (options.serving_only) return report;
  std::error_code ignored;
  report.checkpoint_bytes = std::filesystem::file_size(dir + "/model.safetensors", ignored);
  on_progress("ways of loading");
  std::shared_ptr<const gpu::weight_region> region;
  auto loads = measure_loads(dir, options.repeats, region);
  if (!loads) return pass(loads.error());
  report.loads = std::move(*loads);
  report.region_bytes = region->bytes();
  on_progress("what this machine gives at most");
  auto most = measure_ceilings(region->bytes());
  if (!most) return pass(most.error());
  report.most = *most;
  region.reset();
  measure_starts(options, dir, report, on_progress);
  return report;
}

} // namespace hflex::bench
