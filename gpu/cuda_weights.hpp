// Where a CUDA device gets a model's weights from: from the memory of another process on the same device (nothing
// moves), from another device of this process or of a neighbour (device to device), from a device of another host
// (NCCL), or from the host's region, which may go to the device while it is still read from a disk. Whoever has them
// offers them to the next one.
#pragma once
#include "gpu/compute_type.hpp"
#include "gpu/cuda/model_source.hpp"
#include "gpu/locked_region.hpp"
#include "gpu/task_crew.hpp"
#include "gpu/transport/transport.hpp"
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

namespace hflex::gpu {

/// How weights on a device are shared with the other processes of a host. Any of them may be empty. Called on the
/// thread that makes or drops a context.
struct device_sharing {
  /// What a neighbour offers under `key`; asks all of them, and blocks for a short time at most.
  std::function<std::optional<shared_device_memory>(const std::string& key)> fetch;
  /// Returns what withdraws this offer, and no later one under the same key.
  std::function<std::function<void()>(const std::string& key, shared_device_memory)> offer;
  std::vector<std::byte> ticket{}; ///< of a holder on another host (give); empty: none
};

/// Over a transport, whose other ends are the neighbours' endpoints. What it offers ends with the transport.
device_sharing sharing_over(const std::shared_ptr<transport>& transport, const device_sources& sources);

/// What weights are on a device, in a word that is equal where they can be exchanged.
std::string device_kind(compute_type compute);

/// How weights came to a device.
enum class weights_way : std::uint8_t { host, locked, early, network, device, mapped };
/// "host memory", "host memory, page-locked", "host memory, while it was read", "another host's device", "another
/// device", "this device".
std::string_view name_of(weights_way way);

class early_upload; // weights_upload.hpp

/// Weights on one device; dropped, and no longer offered, with the last context that runs them.
class placed_weights {
public:
  placed_weights(const hflex_cuda_functions& cuda, hflex_cuda_weights* handle, weights_way way)
      : cuda_(cuda), handle_(handle), way_(way) {}
  placed_weights(const placed_weights&) = delete;
  placed_weights& operator=(const placed_weights&) = delete;
  ~placed_weights();
  const hflex_cuda_weights* handle() const { return handle_; }
  std::uint64_t bytes() const; ///< 0 for another process' memory
  weights_way way() const { return way_; }
  /// Why not by a cheaper way that was there; empty when there was none.
  const std::string& refused() const { return refused_; }

private:
  friend class cuda_weights;
  const hflex_cuda_functions& cuda_;
  hflex_cuda_weights* handle_;
  weights_way way_;
  std::string refused_;
  std::uint64_t region_bytes_{};
  std::function<void()> withdraw_;
};

/// All weights that this process has on CUDA devices. Any thread.
class cuda_weights {
public:
  /// `uuids`: of the devices, by index.
  cuda_weights(const hflex_cuda_functions& cuda, std::vector<std::string> uuids);

  /// Blocks; a second caller for the same weights waits for the first. errc::reject: they do not fit the compute type;
  /// errc::fatal: the device refuses.
  /// A region that is still arriving is waited for, where it is needed at all. After its first upload it is page-locked
  /// by a thread of this object, for the next one.
  result<std::shared_ptr<placed_weights>> place(std::uint32_t device,
      const std::shared_ptr<const weight_region>& region, const cuda_model_source& source, compute_type compute,
      const device_sharing& sharing);
  /// Brings a region to a device while it is read from a disk (load_options::coming), on a thread of its own: whoever
  /// reads it names the upload when its digest is known, and keeps it until place() has taken it. Nobody is offered it
  /// before. Null, and the region goes there when it is read, where another such upload is on its way to the device, or
  /// where weights of the same size are, which may be the same. Blocks while weights load.
  std::shared_ptr<early_upload> begin(
      std::uint32_t device, compute_type compute, std::shared_ptr<const weight_region> region);
  /// There will be no place() for weights that were read: what has come of them to the device is freed.
  void let_go(std::uint32_t device, compute_type compute, const std::string& digest);
  /// Tickets for weights of that device_kind, one for each of so many processes of other hosts; when all have shown
  /// theirs to place() there, they get them from a thread of this object, and when one does not come nobody does. Waits
  /// while such weights load. errc::reroute: they are on no device here, NCCL is not there, or too many are being
  /// given.
  result<std::vector<std::vector<std::byte>>> give(
      const std::string& digest, const std::string& kind, std::uint32_t receivers);

private:
  struct place_key {
    std::uint32_t device{};
    compute_type compute{};
    std::string digest;
    friend auto operator<=>(const place_key&, const place_key&) = default;
  };
  /// A place that is being looked for a source.
  struct search {
    const place_key& where;
    const cuda_model_source& source;
    const device_sharing& sharing;
    std::string refused;
  };

  std::shared_ptr<placed_weights> from_neighbours(search& s, bool same_device) const;
  std::shared_ptr<placed_weights> from_own_devices(search& s) const;
  std::shared_ptr<placed_weights> from_another_host(search& s, const weight_region& region) const;
  std::shared_ptr<placed_weights> adopt(search& s, std::uint32_t from, const shared_device_memory& memory) const;
  std::shared_ptr<early_upload> claim_early(const place_key& where);
  std::shared_ptr<placed_weights> from_early(
      const search& s, const std::shared_ptr<early_upload>& early, const std::shared_ptr<const weight_region>& region);
  result<std::shared_ptr<placed_weights>> from_host(search& s, const std::shared_ptr<const weight_region>& region);
  std::shared_ptr<const locked_region> locked(const std::string& digest);
  void lock_later(const std::shared_ptr<const weight_region>& region, std::uint32_t device);
  std::optional<shared_device_memory> share(const placed_weights& weights, std::string* why) const;
  void offer(placed_weights& weights, const place_key& where, const device_sharing& sharing) const;
  std::string sharing_key(const place_key& where, std::uint32_t device) const;

  const hflex_cuda_functions& cuda_;
  const std::vector<std::string> uuids_;
  std::mutex mutex_; ///< held while weights load
  std::map<place_key, std::weak_ptr<placed_weights>> placed_;
  std::map<std::uint32_t, std::weak_ptr<early_upload>> early_;       ///< by device; not those that were claimed
  std::mutex locked_mutex_;                                          ///< of the next
  std::map<std::string, std::weak_ptr<const locked_region>> locked_; ///< by digest; their regions keep them
  task_crew sends_; ///< goes first, as the other: what they run uses the rest
  task_crew locks_;
};

} // namespace hflex::gpu
