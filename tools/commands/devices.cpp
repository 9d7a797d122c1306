// `hflex devices`: what this machine offers, and why a GPU is not among it; or what the nodes of a cluster have, and
// hold in their hosts' memory.
#include "actors/cluster/topology.hpp"
#include "actors/wire/convert_topology.hpp"
#include "gpu/cuda_plugin.hpp"
#include "gpu/host_device.hpp"
#include "tools/cli/exit_code.hpp"
#include "tools/cli/json_line.hpp"
#include "tools/cli/table.hpp"
#include "tools/cli/units.hpp"
#include "tools/commands/commands.hpp"
#include "tools/runtime/client.hpp"
#include <cstdio>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

namespace hflex::commands {
namespace {

struct device_flags {
  head_options head;
  bool nodes{false};
  output format{output::text};
};

nlohmann::ordered_json nodes_json(const cluster::snapshot& s) {
  auto nodes = nlohmann::ordered_json::array();
  for (const auto& n : s.nodes) {
    auto devices = nlohmann::ordered_json::array();
    for (const auto& d : n.devices)
      devices.push_back({{"id", d.id}, {"kind", d.kind}, {"name", d.name}, {"memory_bytes", d.memory_bytes},
          {"memory_used_bytes", d.memory_used_bytes}});
    nodes.push_back({{"id", n.id}, {"name", n.name}, {"state", n.state}, {"weights_bytes", n.weights_bytes},
        {"host_cache_bytes", n.weights_idle_bytes}, {"devices", devices}});
  }
  return {{"nodes", nodes}};
}

void show_nodes(const cluster::snapshot& s) {
  const auto right = cli::align::right;
  cli::table table({{"NODE"}, {"NAME"}, {"STATE"}, {"WEIGHTS", right}, {"IN CACHE", right}, {"DEVICE"}, {"KIND"},
      {"USED", right}, {"MEMORY", right}});
  for (const auto& n : s.nodes) {
    std::vector<cli::cell> node{
        n.id, n.name, n.state, cli::human_bytes(n.weights_bytes), cli::human_bytes(n.weights_idle_bytes)};
    if (n.devices.empty()) node.insert(node.end(), {"-", "-", "-", "-"});
    for (const auto& d : n.devices) {
      node.resize(5, "");
      node.insert(node.end(), {d.id, d.kind, cli::human_bytes(d.memory_used_bytes), cli::human_bytes(d.memory_bytes)});
      if (&d != &n.devices.back()) table.add(std::exchange(node, std::vector<cli::cell>(5, "")));
    }
    table.add(node);
  }
  std::fputs(table.render(cli::detect_terminal(1)).c_str(), stdout);
  std::puts("WEIGHTS: in the host's memory; IN CACHE: of them, in no use and kept for the next start "
            "(weights.host_cache_mib)");
}

int show_cluster(const device_flags& f) {
  auto client = reach_head(f.head);
  if (!client) return report(client.error());
  auto answer = (*client)->ask<wire::msg<wire::schema::Snapshot>>(
      (*client)->cluster(), from_s(f.head.timeout_s), wire::msg<wire::schema::SnapshotQuery>{});
  if (!answer) return report(answer.error());
  const auto snapshot = wire::read(*answer->read());
  if (f.format == output::json)
    std::fputs(cli::json_line(nodes_json(snapshot)).c_str(), stdout);
  else
    show_nodes(snapshot);
  return cli::exit_done;
}

int show(output format) {
  std::vector<gpu::device_info> devices{gpu::host_device_info(std::max(1U, std::thread::hardware_concurrency()))};
  auto cuda = gpu::find_cuda_devices();
  if (cuda) devices.insert(devices.end(), cuda->devices.begin(), cuda->devices.end());
  if (format == output::json) {
    auto list = nlohmann::ordered_json::array();
    for (const auto& d : devices) {
      nlohmann::ordered_json j;
      j["kind"] = d.kind;
      j["name"] = d.name;
      j["isa"] = d.isa;
      j["memory_bytes"] = d.memory_bytes;
      j["threads"] = d.threads;
      list.push_back(j);
    }
    nlohmann::ordered_json all;
    all["devices"] = list;
    all["cuda"] = cuda ? "usable" : cuda.error().message;
    all["nccl_version"] = cuda ? cuda->nccl_version : 0;
    std::fputs(cli::json_line(all).c_str(), stdout);
    return cli::exit_done;
  }
  cli::table table({{"DEVICE"}, {"NAME"}, {"KERNELS"}, {"MEMORY", cli::align::right}, {"THREADS", cli::align::right}});
  int gpus = 0;
  for (const auto& d : devices)
    table.add({d.kind == "cuda" ? fmt::format("cuda:{}", gpus++) : d.kind, d.name, d.isa,
        cli::human_bytes(d.memory_bytes), d.threads > 0 ? std::to_string(d.threads) : "-"});
  std::fputs(table.render(cli::detect_terminal(1)).c_str(), stdout);
  if (!cuda) std::fprintf(stderr, "%s\n", cuda.error().message.c_str());
  return cli::exit_done;
}

} // namespace

runner add_devices(CLI::App& app) {
  auto f = std::make_shared<device_flags>();
  app.add_flag("--nodes", f->nodes, "The nodes of a running cluster instead: their devices, and the weights they hold");
  add_output_option(app, f->format);
  add_head_options(app, f->head);
  add_examples(app, "  hflex devices\n  hflex devices -o json\n  hflex devices --nodes --head 127.0.0.1:7450");
  return [f] { return f->nodes ? show_cluster(*f) : show(f->format); };
}

} // namespace hflex::commands
