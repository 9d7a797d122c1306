// What a node agent needs of its process to make device contexts. A value of functions, so that tests bring their own.
#pragma once
#include "actors/wire/instance_options.hpp"
#include "gpu/device.hpp"
#include "gpu/transport/transport.hpp"
#include "gpu/weights.hpp"
#include <functional>
#include <memory>
#include <string>

namespace hflex::node {

struct backend {
  /// Reads and packs a checkpoint. Called where `run_blocking` runs things.
  std::function<result<std::shared_ptr<const gpu::weight_region>>(const std::string& dir, const gpu::progress_callback&)> load_weights;
  /// Allocates KV memory and work space on device `index`. Called where `run_blocking` runs things.
  std::function<result<std::shared_ptr<gpu::device_context>>(std::uint32_t index, std::shared_ptr<const gpu::weight_region>,
      const wire::instance_options&)> make_context;
  /// Runs a function that blocks, off the actors' threads; in order or not. Tests run it at once.
  std::function<void(std::function<void()>)> run_blocking;
  std::shared_ptr<gpu::transport> transport;
};

} // namespace hflex::node
