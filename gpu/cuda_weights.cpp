#include "gpu/cuda_weights.hpp"
#include "gpu/weights_arrival.hpp"
#include "gpu/weights_upload.hpp"
#include <algorithm>
#include <array>
#include <cstring>
#include <fmt/format.h>
#include <future>

namespace hflex::gpu {
namespace {

/// The other side of a ticket is there at once or not at all; then the slowest network that is worth it.
constexpr std::chrono::milliseconds meeting_patience{10'000};
constexpr std::chrono::seconds meeting_with_copy{4}; ///< more than NCCL should need to begin
constexpr std::uint64_t slowest_bytes_per_ms = 200'000;
constexpr std::size_t max_sends = 8;

std::uint32_t patience_ms(const hflex_cuda_ticket& ticket) {
  const auto ms = static_cast<std::uint64_t>(meeting_patience.count()) + ticket.bytes / slowest_bytes_per_ms;
  return static_cast<std::uint32_t>(std::min<std::uint64_t>(ms, UINT32_MAX));
}

hflex_cuda_patience sender_patience(const hflex_cuda_ticket& ticket, const std::atomic<bool>& stopping) {
  const auto stopped = [](void* at, std::uint32_t) {
    return static_cast<const std::atomic<bool>*>(at)->load() ? 1 : 0;
  };
  return {patience_ms(ticket), stopped, const_cast<std::atomic<bool>*>(&stopping)};
}

/// Who is in a group waits for the others; not for long when the host's copy is here, because one may never come.
struct group_wait {
  std::shared_ptr<weights_arrival> arrival; ///< of the host's copy
  std::chrono::steady_clock::time_point begun{std::chrono::steady_clock::now()};

  static int over(void* at, std::uint32_t meeting) {
    const auto& w = *static_cast<const group_wait*>(at);
    const bool here = !w.arrival || w.arrival->whole();
    return meeting != 0 && here && std::chrono::steady_clock::now() - w.begun >= meeting_with_copy ? 1 : 0;
  }
};

/// A neighbour that answers at all does so at once: it passes a descriptor.
constexpr std::chrono::seconds device_weights_patience{1};

} // namespace

device_sharing sharing_over(const std::shared_ptr<transport>& transport, const device_sources& sources) {
  using memory = std::optional<shared_device_memory>;
  device_sharing out;
  out.ticket = sources.ticket;
  if (!sources.neighbours.empty())
    out.fetch = [transport, neighbours = sources.neighbours, hung = false](const std::string& key) mutable -> memory {
      if (hung) return std::nullopt; // it would cost as much again for each device
      auto came = std::make_shared<std::promise<result<shared_device_memory>>>();
      auto answer = came->get_future();
      transport->fetch_device_weights(neighbours, key, device_weights_patience,
          [came](const result<shared_device_memory>& r) { came->set_value(r); });
      hung = answer.wait_for(2 * device_weights_patience) != std::future_status::ready; // when the transport ends
      if (hung) return std::nullopt;
      auto found = answer.get();
      hung = !found && found.error().code == errc::retry; // no answer in time
      return found ? memory{std::move(*found)} : std::nullopt;
    };
  out.offer = [transport](const std::string& key, shared_device_memory m) -> std::function<void()> {
    const auto made = transport->offer_device_weights(key, std::move(m));
    // Weights may be dropped after the transport has ended, and must not be what ends it.
    return [weak = std::weak_ptr{transport}, made] {
      if (const auto t = weak.lock()) t->withdraw_device_weights(made);
    };
  };
  return out;
}

cuda_weights::cuda_weights(const hflex_cuda_functions& cuda, std::vector<std::string> uuids)
    : cuda_(cuda), uuids_(std::move(uuids)), sends_(max_sends), locks_(1) {}

/// With the ABI's version, because notes and tickets are its structs.
std::string device_kind(compute_type compute) { return fmt::format("cuda{}/{}", hflex_cuda_abi, name_of(compute)); }

std::string_view name_of(weights_way way) {
  constexpr std::array<std::string_view, 6> names{"host memory", "host memory, page-locked",
      "host memory, while it was read", "another host's device", "another device", "this device"};
  return names[static_cast<std::size_t>(way)];
}

placed_weights::~placed_weights() {
  if (withdraw_) withdraw_(); // an offer's descriptor would keep the memory
  cuda_.drop_weights(handle_);
}

std::uint64_t placed_weights::bytes() const { return cuda_.weights_bytes(handle_); }

result<std::shared_ptr<placed_weights>> cuda_weights::place(std::uint32_t device,
    const std::shared_ptr<const weight_region>& region, const cuda_model_source& source, compute_type compute,
    const device_sharing& sharing) {
  const std::lock_guard lock(mutex_);
  std::erase_if(placed_, [](const auto& entry) { return entry.second.expired(); });
  const place_key where{device, compute, region->digest()};
  auto early = claim_early(where);
  if (const auto it = placed_.find(where); it != placed_.end())
    if (auto there = it->second.lock()) return there;
  search s{where, source, sharing, {}};
  auto found = from_neighbours(s, true);
  if (!found) found = from_early(s, early, region);
  early.reset(); // a device never holds the same weights twice
  if (!found) found = from_own_devices(s);
  if (!found) found = from_neighbours(s, false);
  if (!found) found = from_another_host(s, *region);
  if (!found) {
    auto loaded = from_host(s, region);
    if (!loaded) return loaded;
    found = std::move(*loaded);
  }
  found->refused_ = std::move(s.refused);
  found->region_bytes_ = region->bytes();
  offer(*found, where, sharing);
  placed_[where] = found;
  return found;
}

std::shared_ptr<early_upload> cuda_weights::begin(
    std::uint32_t device, compute_type compute, std::shared_ptr<const weight_region> region) {
  const std::lock_guard lock(mutex_);
  auto& slot = early_[device];
  if (!slot.expired()) return nullptr;
  for (const auto& [where, weights] : placed_)
    if (const auto there = weights.lock(); there && where.device == device && there->region_bytes_ == region->bytes())
      return nullptr;
  auto begun = std::make_shared<early_upload>(cuda_, device, compute, std::move(region));
  slot = begun;
  return begun;
}

/// The device's early upload, if it is of these weights, or if nobody can tell of which it is: weights that are known
/// go first. Nobody else gets it then, and when the caller lets go of it, what it has not taken is off the device.
std::shared_ptr<early_upload> cuda_weights::claim_early(const place_key& where) {
  const auto found = early_.find(where.device);
  auto there = found == early_.end() ? nullptr : found->second.lock();
  if (!there) return nullptr;
  const auto digest = there->digest();
  if (!digest.empty() && (digest != where.digest || there->compute() != where.compute)) return nullptr;
  early_.erase(found);
  auto* upload = there.get();
  return {upload, [owner = std::move(there)](early_upload* e) { e->give_up(); }};
}

void cuda_weights::let_go(std::uint32_t device, compute_type compute, const std::string& digest) {
  const std::lock_guard lock(mutex_);
  claim_early({device, compute, digest});
}

std::shared_ptr<placed_weights> cuda_weights::from_early(
    const search& s, const std::shared_ptr<early_upload>& early, const std::shared_ptr<const weight_region>& region) {
  if (!early || early->digest() != s.where.digest || early->compute() != s.where.compute) return nullptr;
  auto taken = early->take();
  if (taken) lock_later(region, s.where.device);
  return taken;
}

/// With the device, because who shares it has nothing to copy.
std::string cuda_weights::sharing_key(const place_key& where, std::uint32_t device) const {
  return fmt::format("{}/{}/{}", device_kind(where.compute), where.digest, uuids_[device]);
}

std::shared_ptr<placed_weights> cuda_weights::from_neighbours(search& s, bool same_device) const {
  if (!s.sharing.fetch) return nullptr;
  for (std::uint32_t d = 0; d < uuids_.size(); ++d) {
    if ((d == s.where.device) != same_device) continue;
    if (const auto memory = s.sharing.fetch(sharing_key(s.where, d)))
      if (auto made = adopt(s, d, *memory)) return made;
  }
  return nullptr;
}

std::shared_ptr<placed_weights> cuda_weights::from_own_devices(search& s) const {
  for (const auto& [where, weights] : placed_) {
    if (where.digest != s.where.digest || where.compute != s.where.compute) continue;
    const auto there = weights.lock();
    if (!there) continue;
    if (const auto memory = share(*there, &s.refused))
      if (auto made = adopt(s, where.device, *memory)) return made;
  }
  return nullptr;
}

std::shared_ptr<placed_weights> cuda_weights::adopt(
    search& s, std::uint32_t from, const shared_device_memory& memory) const {
  hflex_cuda_share described{};
  if (!memory.fd || memory.note.size() != sizeof described) {
    s.refused = "a neighbour described its weights wrongly";
    return nullptr;
  }
  std::memcpy(&described, memory.note.data(), sizeof described);
  hflex_cuda_fault fault{};
  auto* handle = cuda_.adopt_weights(&s.source.model, static_cast<int>(s.where.device), element_of(s.where.compute),
      &described, memory.fd->get(), &fault);
  if (handle == nullptr) {
    s.refused = fault.words;
    return nullptr;
  }
  const auto way = from == s.where.device ? weights_way::mapped : weights_way::device;
  return std::make_shared<placed_weights>(cuda_, handle, way);
}

std::shared_ptr<placed_weights> cuda_weights::from_another_host(search& s, const weight_region& region) const {
  hflex_cuda_ticket ticket{};
  if (s.sharing.ticket.empty()) return nullptr;
  if (s.sharing.ticket.size() != sizeof ticket) {
    s.refused = "the ticket of another host is of another version";
    return nullptr;
  }
  std::memcpy(&ticket, s.sharing.ticket.data(), sizeof ticket);
  group_wait wait{region.arrival()};
  const hflex_cuda_patience patience{patience_ms(ticket), &group_wait::over, &wait};
  hflex_cuda_fault fault{};
  auto* handle = cuda_.receive_weights(
      &s.source.model, static_cast<int>(s.where.device), element_of(s.where.compute), &ticket, &patience, &fault);
  if (handle == nullptr) {
    s.refused = fault.words;
    return nullptr;
  }
  return std::make_shared<placed_weights>(cuda_, handle, weights_way::network);
}

result<std::vector<std::vector<std::byte>>> cuda_weights::give(
    const std::string& digest, const std::string& kind, std::uint32_t receivers) {
  std::shared_ptr<placed_weights> weights;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [where, there] : placed_)
      if (where.digest == digest && device_kind(where.compute) == kind && !weights) weights = there.lock();
  }
  if (!weights) return fail(errc::reroute, "weights {} are on no device here", digest);
  hflex_cuda_ticket ticket{};
  hflex_cuda_fault fault{};
  if (cuda_.make_ticket(weights->handle(), receivers + 1, &ticket, &fault) != hflex_cuda_ok)
    return fail(errc::reroute, "weights to another host: {}", fault.words);
  const bool runs = sends_.run([&cuda = cuda_, weights, ticket](const std::atomic<bool>& stopping) {
    const auto patience = sender_patience(ticket, stopping);
    hflex_cuda_fault f{};
    cuda.send_weights(weights->handle(), &ticket, &patience, &f); // who receives sees that it failed
  });
  if (!runs) return fail(errc::reroute, "{} groups are given weights already", max_sends);
  std::vector<std::vector<std::byte>> out(receivers, std::vector<std::byte>(sizeof ticket));
  for (auto& one : out) {
    ++ticket.rank;
    std::memcpy(one.data(), &ticket, sizeof ticket);
  }
  return out;
}

result<std::shared_ptr<placed_weights>> cuda_weights::from_host(
    search& s, const std::shared_ptr<const weight_region>& region) {
  static const std::atomic<bool> never{false};
  const upload_order order{cuda_, s.source, s.where.device, s.where.compute};
  const auto refused = [&](const error& e) {
    return fail(e.code, "weights on CUDA device {}: {}", s.where.device, e.message);
  };
  if (auto fits = check_range(order, *region, never); !fits) return refused(fits.error());
  if (const auto memory = locked(s.where.digest)) {
    auto made = upload_locked(order, *memory);
    if (made) return made;
    s.refused = made.error().message;
  }
  auto made = upload_weights(order, *region, weights_way::host, never);
  if (!made) return refused(made.error());
  lock_later(region, s.where.device);
  return made;
}

std::shared_ptr<const locked_region> cuda_weights::locked(const std::string& digest) {
  const std::lock_guard lock(locked_mutex_);
  std::erase_if(locked_, [](const auto& entry) { return entry.second.expired(); });
  const auto found = locked_.find(digest);
  return found == locked_.end() ? nullptr : found->second.lock();
}

/// Not before the first upload: it takes about as long as one, and most processes need one only.
void cuda_weights::lock_later(const std::shared_ptr<const weight_region>& region, std::uint32_t device) {
  if (locked(region->digest())) return;
  locks_.run([this, held = std::weak_ptr(region), device](const std::atomic<bool>&) {
    const auto there = held.lock();
    if (!there) return;
    auto memory = locked_region::lock(cuda_, *there, device);
    if (!memory) return; // the next upload goes as this one did
    there->keep(*memory);
    const std::lock_guard lock(locked_mutex_);
    locked_[there->digest()] = *memory;
  }); // false: another one is being locked; the next upload of this one tries again
}

std::optional<shared_device_memory> cuda_weights::share(const placed_weights& weights, std::string* why) const {
  hflex_cuda_share described{};
  hflex_cuda_fault fault{};
  const int fd = cuda_.share_weights(weights.handle(), &described, &fault);
  if (fd < 0) {
    if (why != nullptr) *why = fault.words;
    return std::nullopt;
  }
  shared_device_memory out{std::vector<std::byte>(sizeof described), std::make_shared<unique_fd>(fd)};
  std::memcpy(out.note.data(), &described, sizeof described);
  return out;
}

void cuda_weights::offer(placed_weights& weights, const place_key& where, const device_sharing& sharing) const {
  if (!sharing.offer) return;
  auto memory = share(weights, nullptr);
  if (!memory) return; // a device that cannot share: the host's region is there for the others
  weights.withdraw_ = sharing.offer(sharing_key(where, where.device), std::move(*memory));
}

} // namespace hflex::gpu
