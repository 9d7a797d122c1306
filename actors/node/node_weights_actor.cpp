#include "actors/node/node_shell_actor.hpp"

namespace hflex::node {
namespace {

constexpr std::size_t max_ticket_bytes = 1024;
constexpr unsigned max_receivers = 64;

} // namespace

void shell::load(s::LoadFrom::Reader in) {
  instance_id id{in.getInstance()};
  auto found = instances_.find(id);
  if (found == instances_.end()) return; // cancelled since
  const bool network = in.getKind() == s::SourceKind::NETWORK;
  feed(source_named{id, network});
  if (!core_.wants_weights(id)) return;
  auto& entry = found->second;
  auto& load = entry.load;
  auto digest = wire::read(in.getDigest());
  const auto now = wire::now(self_);
  const auto planned = in.getAttempt() == 1 ? now - entry.ordered : load.planned;
  const auto took = entry.base == weights_base::whole ? duration{} : load.took;
  load = {in.getAttempt(), in.getKind(), node_id{in.getFromNode()}, digest, now, 0, planned, took};
  if (entry.base == weights_base::whole) { // what a holder that was left has given so far
    entry.sources.ticket.clear();
    if (!network) entry.arriving = nullptr;
  }
  if (set_.from_neighbours) entry.sources.neighbours = wire::read(in.getNeighbours());
  switch (in.getKind()) {
  case s::SourceKind::SAME_PROCESS:
    if (auto held = regions_.find(digest); held != regions_.end())
      finish_load(id, load.attempt, held->second);
    else
      fail_load(id, load.attempt, "this process does not hold them any more");
    break;
  case s::SourceKind::SHARED_MEMORY:
    if (!set_.from_neighbours)
      fail_load(id, load.attempt, "taking weights from neighbours is switched off");
    else
      set_.machine.transport->fetch_weights(
          wire::read(in.getEndpoints()), digest, set_.fetch_deadline, loaded_by(id, load.attempt));
    break;
  case s::SourceKind::NETWORK:
    set_.machine.transport->pull_weights(wire::read(in.getEndpoints()), digest, in.getKey(),
        std::chrono::milliseconds{in.getLeaseMs()},
        {progress_to(id, load.attempt), arriving_to(id, load.attempt), loaded_by(id, load.attempt)});
    break;
  case s::SourceKind::DISK:
    set_.machine.run_blocking([load = set_.machine.load_weights, device = entry.device, options = entry.options,
                                  dir = wire::read(in.getModelDir()), report = progress_to(id, load.attempt),
                                  done = loaded_by(id, load.attempt)] { done(load(device, options, dir, report)); });
    break;
  }
}

/// What it has still counts, its reports do not: they carry an attempt that is over.
void shell::stop_load(s::StopLoad::Reader in) {
  auto found = instances_.find(instance_id{in.getInstance()});
  if (found == instances_.end() || found->second.load.attempt != in.getAttempt()) return;
  if (found->second.load.kind == s::SourceKind::NETWORK) set_.machine.transport->stop_pull(found->second.load.digest);
}

void shell::grant(s::GrantWeights::Reader in) {
  set_.machine.transport->grant_weights(
      wire::read(in.getDigest()), in.getKey(), std::chrono::milliseconds{in.getLeaseMs()});
}

void shell::give_to_devices(s::GiveDeviceWeights::Reader in) {
  const auto receivers = in.getReceivers();
  if (!set_.machine.give_device_weights || receivers.size() == 0 || receivers.size() > max_receivers) return;
  std::vector<weights::receiver> to;
  for (const auto r : receivers) to.push_back({instance_id{r.getInstance()}, r.getAttempt()});
  set_.machine.run_blocking([give = set_.machine.give_device_weights, digest = wire::read(in.getDigest()),
                                kind = wire::read(in.getDeviceKind()), to = std::move(to), coordinator = weights_] {
    const auto tickets = give(digest, kind, static_cast<std::uint32_t>(to.size()));
    if (!tickets) return; // the newcomers get them another way anyhow
    for (std::size_t i = 0; i < to.size() && i < tickets->size(); ++i)
      wire::tell_from_outside(coordinator, msg<s::DeviceTicket>::make([&](s::DeviceTicket::Builder out) {
        const auto& ticket = (*tickets)[i];
        out.setInstance(to[i].instance.value);
        out.setAttempt(to[i].attempt);
        out.setTicket({reinterpret_cast<const capnp::byte*>(ticket.data()), ticket.size()});
      }));
  });
}

/// Whose weights wait on a device of another host.
void shell::device_ticket(s::DeviceTicket::Reader in) {
  const instance_id id{in.getInstance()};
  const auto found = instances_.find(id);
  const auto ticket = in.getTicket();
  if (found == instances_.end() || found->second.load.attempt != in.getAttempt() || ticket.size() > max_ticket_bytes)
    return;
  const auto bytes = std::as_bytes(std::span{ticket.begin(), ticket.size()});
  found->second.sources.ticket.assign(bytes.begin(), bytes.end());
  feed(ticket_came{id});
}

std::string shell::device_kind_of(const instance_entry& entry) const {
  return set_.machine.device_kind ? set_.machine.device_kind(entry.device, entry.options) : std::string{};
}

void shell::slack(s::SourceSlack::Reader in) {
  instance_id id{in.getInstance()};
  if (auto found = instances_.find(id); found == instances_.end() || !found->second.actor) return;
  giving_.slack(id, in.getShare());
  limit_giving();
}

void shell::pass_on(const msg<s::WeightsProgress>& message) {
  wire::tell(self_, weights_, message);
  auto in = message.read();
  auto found = instances_.find(instance_id{in->getInstance()});
  if (found == instances_.end() || found->second.load.attempt != in->getAttempt()) return;
  const auto& load = found->second.load;
  if (load.kind != s::SourceKind::NETWORK) return;
  // Its step may take as long as the weights: it tells the router now and then that it is alive.
  if (found->second.arriving && found->second.actor) wire::tell(self_, found->second.actor, msg<s::Tick>{});
  tell_traffic(found->first, load.from, in->getBytesDone(), in->getBytesTotal());
}

void shell::tell_traffic(instance_id id, node_id from, std::uint64_t done, std::uint64_t total) {
  wire::tell(self_, cluster_, msg<s::WeightsTraffic>::make([&](s::WeightsTraffic::Builder out) {
    out.setInstance(id.value);
    out.setFromNode(from.value);
    const auto to = instances_.find(id);
    out.setTransport(to != instances_.end() && to->second.base == weights_base::ticket ? "tcp, nccl" : "tcp");
    out.setBytesDone(done);
    out.setBytesExpected(total);
  }));
}

void shell::perform(ask_weights& e) {
  auto stamp = set_.machine.stamp_of(e.model.directory);
  const auto found = instances_.find(e.instance);
  if (found != instances_.end()) found->second.stamp = stamp;
  wire::tell(self_, weights_, msg<s::WeightsNeeded>::make([&](s::WeightsNeeded::Builder out) {
    out.setInstance(e.instance.value);
    out.setNode(core_.id().value);
    out.setHostId(set_.host_id);
    out.setModelDir(e.model.directory);
    if (found != instances_.end()) out.setDeviceKind(device_kind_of(found->second));
    out.setDigest(e.model.digest.empty() ? digest_of(e.model.directory, stamp) : e.model.digest);
    out.setStamp(stamp);
    const auto& endpoints = set_.machine.transport->endpoints();
    wire::write(out.initEndpoints(static_cast<unsigned>(endpoints.size())), endpoints);
  }));
}

void shell::perform(cancel_weights& e) {
  if (auto found = instances_.find(e.instance); found != instances_.end()) {
    auto& load = found->second.load;
    if (load.kind == s::SourceKind::NETWORK && std::exchange(load.attempt, 0) != 0)
      set_.machine.transport->stop_pull(load.digest);
    load.attempt = 0;
    found->second.arriving = nullptr;
  }
  wire::tell(self_, weights_,
      msg<s::WeightsNotNeeded>::make([&](s::WeightsNotNeeded::Builder out) { out.setInstance(e.instance.value); }));
}

void shell::perform(create_context& e) {
  auto user = instances_.find(e.instance);
  HFLEX_CHECK(user != instances_.end());
  wanted_contexts_.insert(e.context);
  contexts_[e.context] = {nullptr, e.device, e.model.digest};
  cache_.use(e.model.digest);
  auto& entry = user->second;
  entry.base = e.base;
  if (e.base != weights_base::whole) entry.load.took = wire::now(self_) - entry.load.since;
  auto held = regions_.find(e.model.digest);
  auto region = held != regions_.end() ? held->second : entry.arriving;
  HFLEX_CHECK(region);
  // A first step would hold up the first request until all weights are there.
  const bool cold = e.base == weights_base::arriving;
  set_.machine.run_blocking([make = set_.machine.make_context, warm_up = cold ? nullptr : set_.machine.warm_up,
                                device = e.device, region, options = entry.options, sources = entry.sources,
                                id = e.context, shop = shop_, to = wire::node_agent_actor{self_}] {
    using clock = std::chrono::steady_clock;
    const auto begun = clock::now();
    auto made = make(device, region, options, sources);
    const auto allocated = clock::now();
    if (made && warm_up)
      if (auto warm = warm_up(**made, options); !warm) made = pass(warm.error());
    const auto warm = clock::now();
    if (made) shop->put(id, std::move(*made));
    wire::tell_from_outside(to, msg<s::ContextReady>::make([&](s::ContextReady::Builder out) {
      out.setContext(id.value);
      out.setFailed(!made.has_value());
      if (!made) out.setMessage(made.error().message);
      out.setAllocateMs(to_ms(allocated - begun));
      out.setWarmUpMs(to_ms(warm - allocated));
    }));
  });
}

void shell::perform(release_context& e) {
  wanted_contexts_.erase(e.context);
  shop_->take(e.context);
  auto found = contexts_.find(e.context);
  if (found == contexts_.end()) return;
  // Freeing joins the device's threads, which may be in a step: not on an actor's thread.
  if (found->second.context)
    set_.machine.run_blocking(
        [gone = std::make_shared<context_ptr>(std::move(found->second.context))] { gone->reset(); });
  forget_context(e.context);
}

void shell::forget_context(context_id id) {
  auto gone = contexts_.extract(id);
  if (!gone.empty()) free_weights(cache_.release(gone.mapped().digest));
}

void shell::free_weights(const std::vector<std::string>& digests) {
  for (const auto& digest : digests) {
    auto gone = regions_.extract(digest);
    if (gone.empty()) continue;
    set_.machine.transport->withdraw_weights(digest);
    // Unmapping takes a while, and so does what devices have made of the memory: not on an actor's thread.
    set_.machine.run_blocking([region = std::make_shared<region_ptr>(std::move(gone.mapped()))] { region->reset(); });
    wire::tell(self_, weights_, msg<s::WeightsReleased>::make([&](s::WeightsReleased::Builder out) {
      out.setNode(core_.id().value);
      out.setDigest(digest);
    }));
  }
}

void shell::announce_weights(const gpu::weight_region& region) {
  wire::tell(self_, weights_, msg<s::WeightsHeld>::make([&](s::WeightsHeld::Builder out) {
    out.setNode(core_.id().value);
    out.setHostId(set_.host_id);
    out.setDigest(region.digest());
    out.setBytes(region.bytes());
    const auto& endpoints = set_.machine.transport->endpoints();
    wire::write(out.initEndpoints(static_cast<unsigned>(endpoints.size())), endpoints);
  }));
}

std::function<void(region_ptr)> shell::arriving_to(instance_id id, std::uint32_t attempt) {
  return [to = wire::node_agent_actor{self_}, shop = shop_, id, attempt](region_ptr region) {
    shop->put_arriving(id, attempt, std::move(region));
    wire::tell_from_outside(to, msg<s::WeightsArriving>::make([&](s::WeightsArriving::Builder out) {
      out.setInstance(id.value);
      out.setAttempt(attempt);
    }));
  };
}

void shell::region_arriving(s::WeightsArriving::Reader in) {
  instance_id id{in.getInstance()};
  auto region = shop_->take_arriving(id, in.getAttempt());
  auto found = instances_.find(id);
  if (!region || found == instances_.end() || found->second.load.attempt != in.getAttempt()) return;
  auto& entry = found->second;
  if (entry.arriving == region) return; // from another source
  if (entry.base == weights_base::arriving) {
    feed(weights_failed{id, "what had come of its weights was let go"});
    return;
  }
  entry.arriving = region;
  feed(weights_arriving{id, region->digest()});
}

gpu::progress_callback shell::progress_to(instance_id id, std::uint32_t attempt) {
  return [to = wire::node_agent_actor{self_}, id, attempt](std::uint64_t done, std::uint64_t total) {
    wire::tell_from_outside(to, msg<s::WeightsProgress>::make([&](s::WeightsProgress::Builder out) {
      out.setInstance(id.value);
      out.setAttempt(attempt);
      out.setBytesDone(done);
      out.setBytesTotal(total);
    }));
  };
}

std::function<void(result<region_ptr>)> shell::loaded_by(instance_id id, std::uint32_t attempt) {
  return [to = wire::node_agent_actor{self_}, shop = shop_, id, attempt](result<region_ptr> r) {
    if (r) {
      shop->put(id, attempt, *r);
      wire::tell_from_outside(to, msg<s::WeightsLoaded>::make([&](s::WeightsLoaded::Builder out) {
        out.setInstance(id.value);
        out.setAttempt(attempt);
      }));
    } else {
      wire::tell_from_outside(to, msg<s::WeightsFailed>::make([&](s::WeightsFailed::Builder out) {
        out.setInstance(id.value);
        out.setAttempt(attempt);
        out.setReason(r.error().message);
      }));
    }
  };
}

void shell::finish_load(instance_id id, std::uint32_t attempt, const region_ptr& region) {
  auto found = instances_.find(id);
  if (found == instances_.end() || found->second.load.attempt != attempt) return; // stopped, or another attempt runs
  auto& entry = found->second;
  const bool began = entry.base != weights_base::whole;
  const auto coming = std::exchange(entry.arriving, nullptr);
  if (entry.base == weights_base::arriving && coming != region) {
    feed(weights_failed{id, "what had come of its weights was let go"});
    return;
  }
  auto& load = entry.load;
  load.bytes = region->bytes();
  if (!began) load.took = wire::now(self_) - load.since;
  load.attempt = 0;
  digests_[{entry.options.model_dir, entry.stamp}] = region->digest();
  auto fresh = regions_.emplace(region->digest(), region).second;
  if (fresh) set_.machine.transport->offer_weights(region);
  const auto old = cache_.add(region->digest(), region->bytes());
  if (fresh) // of contexts that were made before
    for (const auto& [context, c] : contexts_)
      if (c.digest == region->digest()) cache_.use(c.digest);
  wire::tell(self_, weights_, msg<s::WeightsLoaded>::make([&](s::WeightsLoaded::Builder out) {
    out.setInstance(id.value);
    out.setAttempt(attempt);
    out.setKind(load.kind);
    out.setBytes(region->bytes());
    out.setDigest(region->digest());
    const auto& endpoints = set_.machine.transport->endpoints();
    wire::write(out.initEndpoints(static_cast<unsigned>(endpoints.size())), endpoints);
    out.setElapsedUs(static_cast<std::uint64_t>(wire::age_us(load.since, wire::now(self_))));
  }));
  if (fresh) announce_weights(*region);
  free_weights(old);
  if (began) tell_traffic(id, load.from, load.bytes, load.bytes);
  entry.base = weights_base::whole;
  feed(weights_ready{id, region->digest()});
}

void shell::fail_load(instance_id id, std::uint32_t attempt, const std::string& reason) {
  auto found = instances_.find(id);
  if (found == instances_.end() || found->second.load.attempt != attempt) return;
  found->second.load.attempt = 0;
  wire::tell(self_, weights_, msg<s::WeightsFailed>::make([&](s::WeightsFailed::Builder out) {
    out.setInstance(id.value);
    out.setAttempt(attempt);
    out.setReason(reason);
  }));
}

std::string shell::digest_of(const std::string& dir, const std::string& stamp) const {
  auto found = digests_.find({dir, stamp});
  return found != digests_.end() && regions_.count(found->second) > 0 ? found->second : std::string{};
}

std::uint64_t shell::memory_used(std::uint32_t device) const {
  std::uint64_t bytes = 0;
  for (const auto& [id, c] : contexts_)
    if (c.device == device && c.context) bytes += c.context->memory_used_bytes();
  return bytes;
}

} // namespace hflex::node
