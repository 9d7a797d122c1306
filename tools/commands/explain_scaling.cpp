// `hflex explain --scaling`: what the scaler decided lately, and on which numbers.
#include "actors/wire/convert_scaling.hpp"
#include "tools/cli/exit_code.hpp"
#include "tools/cli/json_line.hpp"
#include "tools/cli/units.hpp"
#include "tools/commands/commands.hpp"
#include "tools/runtime/client.hpp"
#include <cstdio>

namespace hflex::commands {
namespace {

namespace s = wire::schema;
using wire::msg;

nlohmann::ordered_json to_json(s::ScalingLog::Reader in) {
  nlohmann::ordered_json j;
  j["policy"] = in.getPolicy().cStr();
  j["dry_run"] = in.getDryRun();
  j["min_instances"] = in.getMinInstances();
  j["max_instances"] = in.getMaxInstances();
  j["lead_time_ms"] = in.getLeadTimeMs();
  j["decisions"] = nlohmann::ordered_json::array();
  for (auto d : in.getDecisions()) {
    nlohmann::ordered_json one;
    one["number"] = d.getNumber();
    one["age_ms"] = static_cast<double>(d.getAgeUs()) / 1000;
    one["why"] = d.getWhy().cStr();
    one["advice"] = d.getAdvice();
    one["numbers"] = nlohmann::ordered_json::object();
    for (auto n : d.getNumbers()) one["numbers"][n.getName().cStr()] = n.getValue();
    j["decisions"].push_back(std::move(one));
  }
  return j;
}

void print(s::ScalingLog::Reader in) {
  std::printf("%s%s, %u to %u instances, a start takes %s\n", in.getPolicy().cStr(), in.getDryRun() ? " (dry run)" : "",
      in.getMinInstances(), in.getMaxInstances(), cli::human_duration(from_ms(in.getLeadTimeMs())).c_str());
  for (auto d : in.getDecisions()) {
    const auto age = cli::human_duration(std::chrono::microseconds{d.getAgeUs()});
    std::printf("%9s ago  %s\n", age.c_str(), d.getWhy().cStr());
    std::string numbers;
    for (auto n : d.getNumbers())
      numbers += fmt::format("{}{} {:.4g}", numbers.empty() ? "" : ", ", n.getName().cStr(), n.getValue());
    if (!numbers.empty()) std::printf("               %s\n", numbers.c_str());
  }
}

} // namespace

int explain_scaling(const head_options& head, bool json) {
  auto client = reach_head(head);
  if (!client) return report(client.error());
  auto answer = (*client)->ask<msg<s::ScalingLog>>((*client)->scaler(), from_s(head.timeout_s), msg<s::ScalingQuery>{});
  if (!answer) return report(answer.error());
  auto in = answer->read();
  if (json)
    std::fputs(cli::json_line(to_json(*in)).c_str(), stdout);
  else
    print(*in);
  return cli::exit_done;
}

} // namespace hflex::commands
