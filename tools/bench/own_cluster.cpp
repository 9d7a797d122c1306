#include "tools/bench/own_cluster.hpp"

namespace hflex::bench {

result<own_cluster> start_own_cluster(const own_cluster_options& options) {
  const auto count = std::to_string(options.instances);
  std::vector<std::string> words{
      "up", "--agents", count, "--instances", count, "--port", "0", "--policy", options.policy};
  words.insert(words.end(), options.words.begin(), options.words.end());
  auto cluster = runtime::child::start(words, options.environment);
  if (!cluster) return pass(cluster.error());
  const std::string said = "head listens on ";
  auto line = cluster->read_line(std::chrono::seconds{30});
  if (!line) return fail(errc::fatal, "the cluster did not start: {}", line.error().message);
  auto at = cli::parse_endpoint(line->starts_with(said) ? line->substr(said.size()) : *line, 7450);
  if (!at) return pass(at.error());
  return own_cluster{std::move(*cluster), *at};
}

} // namespace hflex::bench
