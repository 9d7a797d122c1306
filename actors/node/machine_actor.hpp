// What a node agent's shell needs of its process to make device contexts, and where loader and device threads leave
// what they made. The backend is a value of functions, so that tests bring their own.
#pragma once
#include "actors/node/node.hpp"
#include "actors/wire/instance_options.hpp"
#include "gpu/device.hpp"
#include "gpu/transport/transport.hpp"
#include "gpu/weights.hpp"
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>

namespace hflex::node {

struct backend {
  /// Reads and packs a checkpoint for a context on device `index`, which may begin to take it meanwhile. Called where
  /// `run_blocking` runs things.
  std::function<result<std::shared_ptr<const gpu::weight_region>>(
      std::uint32_t index, const wire::instance_options&, const std::string& dir, const gpu::progress_callback&)>
      load_weights;
  /// As gpu::checkpoint_stamp. Looks at the directory, opens no file.
  std::function<std::string(const std::string& dir)> stamp_of;
  /// Allocates KV memory and work space on device `index`; brings the weights there where it has memory of its own.
  /// Called where `run_blocking` runs things.
  std::function<result<std::shared_ptr<gpu::device_context>>(std::uint32_t index,
      std::shared_ptr<const gpu::weight_region>, const wire::instance_options&, const gpu::device_sources&)>
      make_context;
  /// What weights on a device of another host must be to be taken from there; empty: device `index` takes none, as
  /// none does when this is empty.
  std::function<std::string(std::uint32_t index, const wire::instance_options&)> device_kind;
  /// As gpu::cuda_backend::give. Called where `run_blocking` runs things; may be empty.
  std::function<result<std::vector<std::vector<std::byte>>>(
      const std::string& digest, const std::string& device_kind, std::uint32_t receivers)>
      give_device_weights;
  /// One step, so that the first request does not pay for what is done for the first time. Called where `run_blocking`
  /// runs things, after make_context; may be empty.
  std::function<result<void>(gpu::device_context&, const wire::instance_options&)> warm_up;
  /// Runs a function that blocks, off the actors' threads; in order or not. Tests run it at once.
  std::function<void(std::function<void()>)> run_blocking;
  std::shared_ptr<gpu::transport> transport;
};

using region_ptr = std::shared_ptr<const gpu::weight_region>;
using context_ptr = std::shared_ptr<gpu::device_context>;

/// What loader and device threads made, until the actor takes it. Messages to the actor carry only the numbers.
class workshop {
public:
  void put(instance_id instance, std::uint32_t attempt, region_ptr region) {
    std::lock_guard lock{mutex_};
    regions_[{instance, attempt}] = std::move(region);
  }
  region_ptr take(instance_id instance, std::uint32_t attempt) {
    std::lock_guard lock{mutex_};
    return extract(regions_, std::pair{instance, attempt});
  }
  /// What is still being received; of the latest attempt.
  void put_arriving(instance_id instance, std::uint32_t attempt, region_ptr region) {
    std::lock_guard lock{mutex_};
    arriving_[instance] = {attempt, std::move(region)};
  }
  region_ptr take_arriving(instance_id instance, std::uint32_t attempt) {
    std::lock_guard lock{mutex_};
    auto [of, region] = extract(arriving_, instance);
    return of == attempt ? std::move(region) : nullptr;
  }
  void put(context_id id, context_ptr context) {
    std::lock_guard lock{mutex_};
    contexts_[id] = std::move(context);
  }
  context_ptr take(context_id id) {
    std::lock_guard lock{mutex_};
    return extract(contexts_, id);
  }

private:
  template <class Map, class Key>
  static typename Map::mapped_type extract(Map& map, const Key& key) {
    auto node = map.extract(key);
    return node.empty() ? typename Map::mapped_type{} : std::move(node.mapped());
  }
  std::mutex mutex_;
  std::map<std::pair<instance_id, std::uint32_t>, region_ptr> regions_;
  std::map<instance_id, std::pair<std::uint32_t, region_ptr>> arriving_;
  std::map<context_id, context_ptr> contexts_;
};

} // namespace hflex::node
