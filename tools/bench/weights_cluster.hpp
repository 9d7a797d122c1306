// A cluster for measuring starts: the head in this process with a scaler that only does what it is told, agents as
// processes of their own, and a client. Called by bench/weights.cpp. Everything but the scaler is what `hflex head` and
// `hflex agent` run.
#pragma once
#include "actors/wire/system.hpp"
#include "gpu/transport/unique_fd.hpp"
#include "tools/runtime/client.hpp"
#include "tools/runtime/head.hpp"
#include <map>
#include <memory>
#include <string>
#include <sys/types.h>
#include <vector>

namespace hflex::bench {

using wall_clock = std::chrono::steady_clock;

/// What one step of a measurement may take before it counts as failed.
inline constexpr auto patience = std::chrono::minutes{2};

/// What a start was spent on, milliseconds.
struct start_parts {
  double messages{};    ///< from the order here to the agent, and of "ready" back
  double plan{};        ///< until the coordinator had named a source
  double weights{};     ///< until they were in the process
  double allocate{};    ///< context: KV memory, work space, threads
  double warm_up{};     ///< first step
  double link{};        ///< until its KV links were open and it was admitted
  double spawn{};       ///< the rest: messages within the agent, the actor's spawn
  double ready{};       ///< all of it
  double first_token{}; ///< from the order here to the first token of a request that waited for it
  std::string path;     ///< where the weights came from
  std::string device;   ///< and from where onto a device with memory of its own
};

struct agent_process {
  std::string host;
  std::string devices; ///< as of `hflex agent --devices`
  std::uint32_t max_mib_per_s{0};
  bool serves_while_loading{false};
};

/// What the scaler was told; any thread.
class start_desk;

class weights_cluster {
public:
  static result<std::unique_ptr<weights_cluster>> start(const std::string& model);
  ~weights_cluster();
  weights_cluster(const weights_cluster&) = delete;
  weights_cluster& operator=(const weights_cluster&) = delete;

  /// Starts an agent's process and waits until it has joined; its index.
  result<std::size_t> add_agent(const agent_process& agent);
  /// Orders one instance on each of these agents at once, with as many requests of this prompt waiting (none if it is
  /// empty), and waits until all are ready and every request has its first token. In the order of the agents.
  result<std::vector<start_parts>> start_instances(const std::vector<std::size_t>& agents, const std::string& prompt);
  /// Nothing is placed on what runs by now; it goes on living.
  void retire_running();

private:
  weights_cluster();
  void order(std::size_t agent, std::uint32_t instance);
  result<void> submit(const std::string& prompt);
  result<std::vector<double>> first_tokens(std::size_t count, wall_clock::time_point since);

  struct actors;
  std::unique_ptr<actors> actors_;
  std::shared_ptr<start_desk> desk_;
  std::unique_ptr<runtime::head_client> client_;
  std::string head_;
  wire::instance_options options_;
  gpu::unique_fd nowhere_;
  std::vector<pid_t> processes_;
  std::vector<std::uint32_t> instances_; ///< ids ordered so far
  std::uint32_t last_instance_{0};
};

} // namespace hflex::bench
