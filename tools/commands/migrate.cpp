// `hflex migrate`: moves a decoding request by hand, through the scheduler, which keeps its accounts.
#include "tools/cli/exit_code.hpp"
#include "tools/commands/commands.hpp"
#include "tools/runtime/client.hpp"
#include <cstdio>
#include <memory>

namespace hflex::commands {
namespace {

namespace s = wire::schema;
using wire::msg;

struct migrate_flags {
  head_options head;
  std::string request;
  std::string to;
};

int migrate(const migrate_flags& f) {
  auto id = parse_id(f.request, 'r', "request");
  if (!id) return report(id.error());
  auto to = parse_id(f.to, 'i', "instance");
  if (!to) return report(to.error());
  if (*to > UINT32_MAX) return usage_error("\"" + f.to + "\" is no instance: its number is too large");
  auto client = reach_head(f.head);
  if (!client) return report(client.error());
  auto command = msg<s::MigrateRequest>::make([&](s::MigrateRequest::Builder out) {
    out.setId(*id);
    out.setTo(static_cast<std::uint32_t>(*to));
  });
  auto answer = (*client)->ask<msg<s::CommandAnswer>>((*client)->scheduler(), from_s(f.head.timeout_s), command);
  if (!answer) return report(answer.error());
  auto in = answer->read();
  std::fprintf(in->getOk() ? stdout : stderr, "%s\n", in->getMessage().cStr());
  return in->getOk() ? cli::exit_done : cli::exit_failed;
}

} // namespace

runner add_migrate(CLI::App& app) {
  auto f = std::make_shared<migrate_flags>();
  app.add_option("REQUEST", f->request, "A request that decodes (r1, r2, ...; see hflex jobs)")->required();
  app.add_option("--to", f->to, "The instance that is to go on with it (i1, i2, ...; see hflex topology)")->required();
  add_head_options(app, f->head);
  add_examples(app, "  hflex migrate r17 --to i2\n  hflex migrate 17 --to 2 --head 10.0.0.1:7450");
  return [f] { return migrate(*f); };
}

} // namespace hflex::commands
