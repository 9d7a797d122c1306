// A head in this process: its actors, made from the configuration and published on its port.
#pragma once
#include "actors/cluster/head_actor.hpp"
#include "config/config.hpp"
#include <string>

namespace hflex::runtime {

struct running_head {
  cluster::head_actors actors;
  std::uint16_t port{}; ///< as bound: never 0
};

/// Loads tokenizer and model configuration (blocks on the disk), spawns the roles and listens.
/// `other_scaler`: see head_settings. errc::reject: model directory or options at fault; errc::retry: the port is
/// taken.
result<running_head> start_head(
    caf::actor_system& system, const config::cluster_config& config, const wire::scaler_actor& other_scaler = {});
/// What every instance of this configuration is started with.
wire::instance_options instance_options_of(const config::cluster_config& config, step_policy steps);

} // namespace hflex::runtime
