// The subcommands of hflex: one file each, one line here and one in hflex.cpp. A command adds its options to `app` and
// leaves a function that runs it and returns an exit code.
#pragma once
#include "actors/common/result.hpp"
#include "config/config.hpp"
#include "tools/cli/endpoint.hpp"
#include <CLI/CLI.hpp>
#include <functional>
#include <map>
#include <memory>
#include <string>

namespace hflex::runtime {
class head_client;
} // namespace hflex::runtime
namespace hflex::cluster {
struct snapshot;
} // namespace hflex::cluster

namespace hflex::commands {

using runner = std::function<int()>;

runner add_up(CLI::App& app);
runner add_head(CLI::App& app);
runner add_agent(CLI::App& app);
runner add_submit(CLI::App& app);
runner add_jobs(CLI::App& app);
runner add_cancel(CLI::App& app);
runner add_wait(CLI::App& app);
runner add_migrate(CLI::App& app);
runner add_explain(CLI::App& app);
runner add_topology(CLI::App& app);
runner add_ready(CLI::App& app);
runner add_role(CLI::App& app);
runner add_scale(CLI::App& app);
runner add_drain(CLI::App& app);
runner add_explain(CLI::App& app);
runner add_model(CLI::App& app);
/// `hflex model logits`, a subcommand of that; puts what runs it into `chosen`.
void add_model_logits(CLI::App& app, const std::shared_ptr<runner>& chosen);
runner add_devices(CLI::App& app);
runner add_bench(CLI::App& app);
runner add_bench_load(CLI::App& app); ///< a part of bench, as the next three
runner add_bench_role(CLI::App& app);
runner add_bench_scheduler(CLI::App& app);
runner add_bench_weights(CLI::App& app);
runner add_profile(CLI::App& app);
runner add_simulate(CLI::App& app);

// ---- shared by the commands ----

/// `-o table|json` and the like.
enum class output : unsigned char { text, json, dot };

/// --head HOST:PORT (HFLEX_HEAD) and --timeout-s.
struct head_options {
  std::string head{"127.0.0.1:7450"};
  double timeout_s{10};
};
void add_head_options(CLI::App& app, head_options& to);
/// Connects to the head that the options name. errc::reject: the address is at fault; else as head_client::connect.
result<std::unique_ptr<runtime::head_client>> reach_head(const head_options& options);
/// Waits, event by event, until so many instances are ready, and returns the topology that shows them. `timeout` is of
/// single answers. errc::retry when it took too long.
result<cluster::snapshot> wait_for_instances(
    runtime::head_client& client, std::size_t wanted, duration longest, duration timeout);
// Checks of options. CLI11's own let "nan" into any range and "-1" into unsigned numbers, and name choices unreadably.
CLI::Validator number_in(double least, double most);
CLI::Validator whole_number();
/// Also what turns the word into the value of an enum: give it to transform().
template <class Enum>
CLI::Validator one_of(std::map<std::string, Enum> known) {
  return {[known = std::move(known)](std::string& word) {
            if (auto found = known.find(word); found != known.end()) {
              word = std::to_string(static_cast<int>(found->second));
              return std::string{};
            }
            std::string names;
            for (const auto& [name, value] : known) names += (names.empty() ? "" : ", ") + name;
            return "expected one of " + names + ", found '" + word + "'";
          },
      ""};
}

/// -o text|json. `help` says what they are, where that is more than the words.
void add_output_option(CLI::App& app, output& to, const std::string& help = "text or json");
/// Examples under the options of --help.
void add_examples(CLI::App& app, const std::string& examples);

/// "hflex: ..." on stderr, and the exit code that belongs to the error.
int report(const error& e);
/// The same for errors of the command line.
int usage_error(const std::string& what);

/// `hflex explain --scaling`: the scaler's decisions, for people or (`json`) for scripts. An exit code.
int explain_scaling(const head_options& head, bool json);

/// "r17", "17"; "i3"; "n2". errc::reject says what was expected.
result<std::uint64_t> parse_id(const std::string& word, char letter, const char* what);

} // namespace hflex::commands
