// `hflex role`, `hflex scale` and `hflex drain`: an operator's hand on the fleet, through the scaler.
#include "actors/wire/convert.hpp"
#include "actors/wire/convert_scaling.hpp"
#include "tools/cli/exit_code.hpp"
#include "tools/commands/commands.hpp"
#include "tools/runtime/client.hpp"
#include <cstdio>
#include <memory>

namespace hflex::commands {
namespace {

namespace s = wire::schema;
using wire::msg;

struct fleet_flags {
  head_options head;
  std::string target;
  std::string role;
};

template <class Schema>
int order(const fleet_flags& f, const msg<Schema>& command) {
  auto client = reach_head(f.head);
  if (!client) return report(client.error());
  auto answer = (*client)->ask<msg<s::CommandAnswer>>((*client)->scaler(), from_s(f.head.timeout_s), command);
  if (!answer) return report(answer.error());
  auto in = answer->read();
  std::fprintf(in->getOk() ? stdout : stderr, "%s\n", in->getMessage().cStr());
  return in->getOk() ? cli::exit_done : cli::exit_failed;
}

int change(const fleet_flags& f) {
  auto id = parse_id(f.target, 'i', "instance");
  if (!id) return report(id.error());
  auto role = parse_instance_role(f.role);
  if (!role) return usage_error("\"" + f.role + "\" is no role: expected prefill, decode or mixed");
  return order(f, msg<s::ChangeRole>::make([&](s::ChangeRole::Builder out) {
    out.setInstance(static_cast<std::uint32_t>(*id));
    out.setTo(wire::to_wire(*role));
  }));
}

struct scale_flags {
  fleet_flags fleet;
  scaler::request_scale to;
};

int scale(scale_flags& f) {
  if (!f.fleet.role.empty()) {
    f.to.role = parse_instance_role(f.fleet.role);
    if (!f.to.role) return usage_error("\"" + f.fleet.role + "\" is no role: expected prefill, decode or mixed");
  }
  if (!f.to.count && !f.to.min_instances && !f.to.max_instances && !f.to.automatic)
    return usage_error("nothing to do: expected --count, --min, --max or --auto");
  if (f.to.count && f.to.automatic)
    return usage_error("--count holds the number, --auto lets go of it: give one of them");
  return order(f.fleet, msg<s::ScaleFleet>::make([&](s::ScaleFleet::Builder out) { wire::write(out, f.to); }));
}

int drain(const fleet_flags& f) {
  auto is_node = !f.target.empty() && f.target.front() == 'n';
  auto id = is_node ? parse_id(f.target, 'n', "node") : parse_id(f.target, 'i', "instance");
  if (!id) return report(id.error());
  return order(f, msg<s::Drain>::make([&](s::Drain::Builder out) {
    if (is_node)
      out.setNode(static_cast<std::uint32_t>(*id));
    else
      out.setInstance(static_cast<std::uint32_t>(*id));
  }));
}

} // namespace

runner add_role(CLI::App& app) {
  auto f = std::make_shared<fleet_flags>();
  app.add_option("INSTANCE", f->target, "The instance (i1, i2, ...)")->required();
  app.add_option("ROLE", f->role, "prefill, decode or mixed")->required();
  add_head_options(app, f->head);
  add_examples(app, "  hflex role i2 mixed\n  hflex role i1 prefill");
  return [f] { return change(*f); };
}

runner add_scale(CLI::App& app) {
  auto f = std::make_shared<scale_flags>();
  app.add_option("--count", f->to.count, "Instances of the role; held until --auto")->check(CLI::Range(0U, 100000U));
  app.add_option("--role", f->fleet.role, "prefill, decode or mixed; may be left out when there is one only");
  app.add_option("--min", f->to.min_instances, "The scaling policy keeps at least so many")
      ->check(CLI::Range(0U, 100000U));
  app.add_option("--max", f->to.max_instances, "... and at most so many")->check(CLI::Range(1U, 100000U));
  app.add_flag("--auto", f->to.automatic, "Let the scaling policy decide again");
  add_head_options(app, f->fleet.head);
  add_examples(
      app, "  hflex scale --count 4\n  hflex scale --role decode --count 3\n  hflex scale --auto --min 1 --max 8");
  return [f] { return scale(*f); };
}

runner add_drain(CLI::App& app) {
  auto f = std::make_shared<fleet_flags>();
  app.add_option("TARGET", f->target, "An instance (i2) or a node (n1)")->required();
  add_head_options(app, f->head);
  add_examples(app, "  hflex drain i2\n  hflex drain n1");
  return [f] { return drain(*f); };
}

} // namespace hflex::commands
