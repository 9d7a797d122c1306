// `hflex explain`: why something was decided.
#include "tools/commands/commands.hpp"
#include <memory>

namespace hflex::commands {
namespace {

struct explain_flags {
  head_options head;
  output format{output::text};
  bool scaling{false};
};

} // namespace

runner add_explain(CLI::App& app) {
  auto f = std::make_shared<explain_flags>();
  app.add_flag("--scaling", f->scaling, "Why the fleet changed")->required();
  app.add_option("-o,--output", f->format, "table or json")
      ->transform(
          CLI::CheckedTransformer(std::map<std::string, output>{{"table", output::text}, {"json", output::json}}))
      ->option_text("table|json");
  add_head_options(app, f->head);
  add_examples(app, "  hflex explain --scaling\n  hflex explain --scaling -o json");
  return [f] { return explain_scaling(f->head, f->format == output::json); };
}

} // namespace hflex::commands
