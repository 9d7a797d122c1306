// What people can configure, as plain values: the structs, their units and their defaults. Filled by config/loader.hpp,
// read by `hflex up`, `hflex head` and `hflex agent`. A field's key, range and documentation are its row in
// config/schema.cpp; the default lives here only. Times are durations: the unit is part of the key (`max_wait_ms`),
// never of the value.
#pragma once
#include "actors/common/request.hpp"
#include "actors/common/slo.hpp"
#include "actors/common/step_time.hpp"
#include "gpu/host_device.hpp"
#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

namespace hflex::config {

/// Whether instances do both phases of a request, or prefill and decode run on instances of their own.
enum class serving_mode : std::uint8_t { collocated, disaggregated };

enum class log_level : std::uint8_t { trace, debug, info, warning, error, off };

/// A TCP address. IPv4, IPv6 (without brackets) or a host name.
struct listen_config {
  std::string host{"127.0.0.1"}; ///< loopback unless told otherwise: the control port must not face strangers
  std::uint16_t port{7450};
  /// Nodes do not authenticate each other yet, so addresses other than loopback are refused unless this says that the
  /// network is one where everybody may be trusted. Covers the agents' transports too.
  bool private_network{false};
};

/// `count` instances of one role. Allowed: mixed only when collocated, at least one prefill and one decode when
/// disaggregated.
struct fleet_entry {
  instance_role role{instance_role::mixed};
  std::uint32_t count{1};
  friend bool operator==(const fleet_entry&, const fleet_entry&) = default;
};

/// The SLO scheduler's queue and budgets.
struct scheduler_config {
  std::string policy{"hyperflexis"};          ///< name in the table of scheduling policies
  std::uint32_t max_queued{4096};             ///< requests that wait for an instance; more are shed
  duration max_wait{std::chrono::minutes{1}}; ///< a best-effort request older than this goes first (no starvation)
  double safety{0.03};                        ///< share of every time budget kept back against model error, [0, 0.9]
  std::string knobs; ///< the policy's own numbers, NAME=NUMBER with commas between (hflex simulate --knob)
};

/// How the fleet follows the load.
struct scaling_config {
  std::string policy{"fixed"};                 ///< name in the table of scaling policies
  bool dry_run{false};                         ///< only says what it would do
  std::uint32_t min_instances{0};              ///< of all roles together
  std::uint32_t max_instances{1024};           ///< the same
  duration lead_time{std::chrono::seconds{5}}; ///< of a start, before one was measured
  duration hand_hold{std::chrono::minutes{5}}; ///< what a person made of an instance's role stays that long
  std::string knobs; ///< the policy's own numbers, NAME=NUMBER with commas between (hflex simulate --scaling-knob)
};

/// The router's promises and bounds.
struct router_config {
  std::uint32_t max_in_flight{8192}; ///< accepted and unfinished requests; more are refused with errc::retry
  std::uint32_t max_attempts{3};     ///< tries of one request, the first included
  duration request_timeout{std::chrono::minutes{10}}; ///< arrival to terminal outcome
  duration stage_timeout{std::chrono::minutes{1}};    ///< longest silence of one stage before the request is retried
  std::uint32_t max_history{1024}; ///< ended requests that `hflex jobs` and `hflex explain` still know
};

/// What every instance of the fleet is like.
struct instance_config {
  gpu::compute_type compute{gpu::compute_type::bf16}; ///< arithmetic of activations
  std::uint32_t threads{0};                           ///< compute threads, 0 = the device's cores shared evenly
  std::string isa;                                    ///< forces one set of CPU kernels; empty = best of this CPU
  std::uint32_t block_size{16};                       ///< tokens in one KV block
  std::uint32_t kv_memory_mib{64};                    ///< KV pool in MiB; used when kv_blocks is 0
  std::uint32_t kv_blocks{0};                         ///< KV pool in blocks, 0 = from kv_memory_mib
  std::uint32_t max_batched_tokens{2048};             ///< most tokens in one step; at least max_sequences
  std::uint32_t max_sequences{64};                    ///< sequences that run at a time
  std::uint32_t max_waiting{256}; ///< sequences that wait inside an instance; more are refused with errc::retry
  std::string profile;            ///< file that `hflex profile` wrote; empty = none
  step_time_model step_time{unmeasured_step_time}; ///< the profile's, or what an unmeasured device is taken for
  bool prefix_cache{true};                         ///< keep and share the KV blocks of prompts that begin alike
};

/// How long the steps of one device take with one model: what `hflex profile` measures and writes.
struct step_profile {
  std::string device; ///< for people: what was measured ...
  std::string isa;
  std::uint32_t threads{};
  std::string model;
  std::string compute;
  std::uint32_t steps{}; ///< measured
  double mean_error{};   ///< of the fit on steps that were held out, relative
  double p95_error{};
  step_time_model step_time{unmeasured_step_time};
};

/// How the cluster notices death, and how long it waits for a start or an end.
struct membership_config {
  duration heartbeat_interval{std::chrono::milliseconds{500}};
  duration suspect_after{std::chrono::milliseconds{1200}}; ///< silence: no new work; > heartbeat_interval
  duration lost_after{std::chrono::milliseconds{2000}};    ///< silence: taken for dead; > suspect_after
  std::uint32_t expect_nodes{1}; ///< nodes that the first placement waits for (a few seconds), so that instances spread
  duration start_deadline{std::chrono::minutes{2}}; ///< decision to instance_ready; past it the start is torn down
  duration drain_deadline{std::chrono::minutes{1}}; ///< residents that have not ended by then are moved or retried
};

/// Where a starting instance takes its weights from.
struct weights_config {
  bool from_neighbours{true};                        ///< map a neighbour's copy before reading the disk
  duration fetch_deadline{std::chrono::seconds{10}}; ///< one try with one neighbour; then the next source
  bool across_hosts{true};                           ///< take them from other hosts' memory, too
  bool serve_while_loading{false};    ///< a CPU instance begins with the layers that other hosts have sent so far
  std::uint32_t host_cache_mib{4096}; ///< weights that no instance uses stay in an agent's memory up to this
  std::uint32_t max_mib_per_s{0};     ///< what one agent gives to other hosts, 0 = what the link takes
};

/// How an agent's instances move KV blocks and weights.
struct transport_config {
  bool shm{true};                       ///< shared memory between processes of one host
  bool tcp{true};                       ///< between hosts
  std::string listen_host{"127.0.0.1"}; ///< where tcp listens, on any free port
  std::string host_id; ///< agents with equal ones share memory; empty = found out. For tests of several hosts on one
};

/// One node agent. `hflex up` starts all of them; `hflex agent` takes the entry of its name, else these defaults.
struct agent_config {
  std::string name{"local"};                ///< unique in the cluster; letters, digits, '-', '_', '.'
  std::vector<std::string> devices{"auto"}; ///< "auto" (every GPU, else the CPU), "cpu:N" (N threads), "cuda:I"
  transport_config transport;
};

/// The service-level objectives on offer.
struct slo_config {
  std::vector<slo_class> classes;        ///< unique names, in the order of the file
  std::string default_class{"standard"}; ///< of a request that names none; one of `classes`
  std::string classes_file;              ///< where `classes` were read from; empty = in place, or built in
};

/// config/slo_classes.yaml as compiled in: what a cluster without a file offers.
std::vector<slo_class> default_slo_classes();

struct cluster_config {
  listen_config listen;
  std::string model; ///< checkpoint: a directory (config.json, model.safetensors, tokenizer.json) or a GGUF file
  serving_mode mode{serving_mode::collocated};
  std::vector<fleet_entry> fleet; ///< empty = default_fleet(mode)
  scheduler_config scheduler;
  scaling_config scaling;
  router_config router;
  instance_config instance;
  membership_config membership;
  weights_config weights;
  std::vector<agent_config> agents{agent_config{}};
  log_level log{log_level::info};
  slo_config slo{default_slo_classes(), "standard", {}};
};

/// One mixed instance when collocated; one prefill and one decode instance when disaggregated.
std::vector<fleet_entry> default_fleet(serving_mode mode);

std::string_view to_string(serving_mode mode);
std::string_view to_string(log_level level);

} // namespace hflex::config
