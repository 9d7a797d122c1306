// `hflex devices`: what this machine offers, and why a GPU is not among it.
#include "gpu/cuda_plugin.hpp"
#include "gpu/host_device.hpp"
#include "tools/cli/exit_code.hpp"
#include "tools/cli/json_line.hpp"
#include "tools/cli/table.hpp"
#include "tools/cli/units.hpp"
#include "tools/commands/commands.hpp"
#include <cstdio>
#include <memory>
#include <thread>

namespace hflex::commands {
namespace {

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
  auto format = std::make_shared<output>(output::text);
  add_output_option(app, *format);
  add_examples(app, "  hflex devices\n  hflex devices -o json");
  return [format] { return show(*format); };
}

} // namespace hflex::commands
