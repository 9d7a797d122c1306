// A cluster of real hflex processes on loopback, and what tests ask of it. Everything is observed as a user would: by
// commands, their output and their exit codes.
#pragma once
#include "tests/support/catch.hpp"
#include "tests/support/model_dir.hpp"
#include "tests/support/process.hpp"
#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>

namespace hflex::test {

using nlohmann::json;

/// What a command left behind when it ended.
struct ended {
  int code{};
  std::string out;
  std::string err;
};
/// Runs `hflex WORDS...` to its end.
ended run_hflex(std::vector<std::string> words, std::vector<std::string> environment = {}, std::string input = {});

struct job {
  std::string prompt;
  unsigned max_tokens{};
  double temperature{0};
  unsigned seed{0};
};
/// Prompts short and long, greedy and sampled, that decode for exactly `tokens` tokens each.
std::vector<job> some_jobs(unsigned count, unsigned tokens);
std::string json_lines(const std::vector<job>& jobs);
/// Lines of `submit -o json` by the order of their ids, which is the order of submission.
std::vector<json> records(const std::string& out);
/// The token ids in the order of submission.
std::vector<std::vector<int>> tokens_of(const std::vector<json>& jobs);
/// Each job exactly once, and every one finished.
void check_all_finished(const std::vector<json>& jobs, std::size_t count);

struct cluster_options {
  std::string mode{"disaggregated"};
  std::string compute{"f32"};
  std::vector<std::string> agents{"a", "b"}; ///< started in this order; placement waits for all of them
  std::vector<std::string> head_environment;
  std::vector<std::string> agent_words; ///< more flags of every agent
  std::vector<std::string> agent_environment{};
  bool hosts_apart{false}; ///< each agent claims to be another host: no shared memory between them
  std::string model{demo_model()};
  std::string devices{"cpu:1"}; ///< of every agent
};

class cluster {
public:
  explicit cluster(const cluster_options& o = {});

  const std::string& head() const { return head_address_; }
  std::uint16_t port() const;
  process& head_process() { return *head_; }
  process& agent(const std::string& name) { return *agents_.at(name); }
  /// Starts (or, when one of this name has ended, starts again) an agent.
  process& start_agent(const std::string& name);

  ended run(std::vector<std::string> words, std::string input = {}) const;
  std::unique_ptr<process> start(std::vector<std::string> words, std::string input = {}) const;
  void wait_ready(unsigned instances) const;
  json topology() const;
  /// Asks for the topology until it is as wanted: again at every event, and now and then for what has no event (load).
  json until(const std::string& what, const std::function<bool(const json&)>& wanted);

  std::vector<json> submit(const std::vector<job>& jobs) const;
  std::unique_ptr<process> start_submit(const std::vector<job>& jobs) const;
  /// The records of a submit that was started.
  static std::vector<json> finish(process& submit);
  /// A long job whose tokens are printed as they come; returns when some are there: decoding is under way.
  std::unique_ptr<process> start_witness() const;

private:
  std::vector<std::string> with_head(std::vector<std::string> words) const;

  cluster_options options_;
  std::unique_ptr<process> head_;
  std::string head_address_;
  std::map<std::string, std::unique_ptr<process>> agents_;
  std::unique_ptr<process> watch_;
};

/// The instance of this role, ready, or null.
json instance_of_role(const json& topology, const std::string& role);
json node_named(const json& topology, const std::string& name);
/// The name of the node that holds the instance of this role.
std::string holder_of(const json& topology, const std::string& role);
std::size_t ready_instances(const json& topology);
/// True when no instance runs anything or holds a KV block.
bool at_rest(const json& topology);

} // namespace hflex::test
