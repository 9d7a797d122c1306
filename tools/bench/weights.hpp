// How long a new instance takes to serve, by where its weights come from and how many start at once, against what this
// machine could do at most and against how a serving engine loads: one thread that reads, copies and packs. Called by
// `hflex bench weights`.
#pragma once
#include "actors/common/result.hpp"
#include "tools/bench/weights_cluster.hpp"
#include <functional>
#include <string>
#include <vector>

namespace hflex::bench {

struct weights_options {
  std::string model;                 ///< checkpoint directory; empty: `shape` with random weights in a temporary one
  std::string shape{"smollm2-135m"}; ///< see shape_names()
  std::string tokenizer_from;        ///< directory whose tokenizer a made checkpoint gets
  std::vector<std::uint32_t> newcomers{1, 2, 4, 8};
  std::string device{"cpu"};        ///< of every agent: cpu, or cuda:I
  std::uint32_t threads{0};         ///< compute threads of each agent on a CPU, 0 = all cores
  std::uint32_t link_mib_s{128};    ///< the bounded link between hosts that chains are measured on, too
  std::uint32_t repeats{3};         ///< of each point; the fastest counts: others use this machine, too
  std::uint32_t prompt_tokens{512}; ///< of the long prompt that serving while loading is measured with
  bool serving_only{false};         ///< nothing but `serving`
};

/// What the machine gives at most, measured in the same run.
struct weights_ceilings {
  double memcpy_gb_s{};    ///< one thread, into memory that was touched before
  double fresh_gb_s{};     ///< one thread, into memory that was not: what a receiver must do at least
  double tcp_gb_s{};       ///< loopback, one connection, into memory that was touched before
  double tcp_fresh_gb_s{}; ///< the same into memory that was not
};

/// One way of loading, without a cluster around it.
struct load_point {
  std::string way; ///< "engine, disk cold", "disk warm", "shared memory", ...
  double ms{};
  double gb_s{};
  std::string note; ///< what could not be done as it should be
};

struct start_point {
  /// "disk cold", "disk warm", "host cache", "shared memory", "TCP over loopback", "TCP, 128 MiB/s links"
  std::string path;
  std::uint32_t newcomers{};
  std::vector<start_parts> starts;
  double all_weights_ms{}; ///< until the last of them had its weights
  double all_ready_ms{};   ///< until the last of them was ready
  double first_token_ms{}; ///< to the first token of all
  std::string fault;       ///< why there is no measurement; what came before it still counts
};

/// The first token of a request that waits for a newcomer, whose weights come from another host: when the newcomer
/// begins with all of them, and when it begins with what has come.
struct serving_point {
  std::string link;
  std::uint32_t prompt_tokens{};
  double waiting_ms{};
  double while_loading_ms{};
  std::string fault; ///< why there is no measurement
};

struct weights_report {
  std::string model;
  std::uint64_t checkpoint_bytes{};
  std::uint64_t region_bytes{};
  weights_ceilings most;
  std::vector<load_point> loads;
  std::vector<start_point> starts;
  std::vector<serving_point> serving;
};

/// Blocks for as long as it takes. `on_progress` hears what is measured now. errc::reject: unknown model or shape.
result<weights_report> measure_weights(
    const weights_options& options, const std::function<void(const std::string&)>& on_progress);

} // namespace hflex::bench
