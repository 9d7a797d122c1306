// `hflex role` and `hflex drain`: an operator's hand on the fleet, through the scaler.
#include "actors/wire/convert.hpp"
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

runner add_drain(CLI::App& app) {
  auto f = std::make_shared<fleet_flags>();
  app.add_option("TARGET", f->target, "An instance (i2) or a node (n1)")->required();
  add_head_options(app, f->head);
  add_examples(app, "  hflex drain i2\n  hflex drain n1");
  return [f] { return drain(*f); };
}

} // namespace hflex::commands
