// The hardware of a cluster in virtual time: devices that compute a token from all KV rows of a sequence, a transport
// that copies rows between them at once, and weights that are only a name. A row that is missing, stale or another
// sequence's changes every later token, so that equal tokens prove the hand-over. Single-threaded: everything happens
// in the test's thread.
#pragma once
#include "actors/node/machine_actor.hpp"
#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <set>

namespace hflex::test {

inline constexpr std::uint64_t mix(std::uint64_t x) {
  x = (x ^ (x >> 30U)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27U)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31U);
}

/// K and V of one token in one layer.
using kv_row = std::array<std::uint64_t, 2>;
inline constexpr std::uint32_t scripted_layers = 2;

inline kv_row row_of(token_id token, std::uint32_t position, std::uint32_t layer) {
  auto k = mix(static_cast<std::uint64_t>(token) << 32U | position << 4U | layer);
  return {k, mix(k + 1)};
}
inline std::uint64_t fold(std::uint64_t sum, const kv_row& row) { return mix(sum * 31 + row[0]) + row[1]; }
inline token_id token_of(std::uint64_t sum, std::uint32_t vocab) { return static_cast<token_id>(sum % vocab); }

/// What an undisturbed run gives after `prompt`.
inline std::vector<token_id> expected_tokens(std::vector<token_id> prompt, std::size_t count, std::uint32_t vocab) {
  std::vector<token_id> out;
  while (out.size() < count) {
    std::uint64_t sum = 0;
    for (std::uint32_t i = 0; i < prompt.size(); ++i)
      for (std::uint32_t layer = 0; layer < scripted_layers; ++layer) sum = fold(sum, row_of(prompt[i], i, layer));
    out.push_back(token_of(sum, vocab));
    prompt.push_back(out.back());
  }
  return out;
}

/// Work that takes virtual time. The fixture calls complete_until as its clock goes on.
class device_clock {
public:
  duration step{std::chrono::milliseconds{10}};
  std::function<duration(const gpu::step_plan&)> step_time; ///< instead of `step`, when there is one
  duration of(const gpu::step_plan& plan) const { return step_time ? step_time(plan) : step; }
  time_point now{};

  void after(duration delay, std::function<void()> work) { due_.emplace(now + delay, std::move(work)); }
  void complete_until(time_point time) {
    now = time;
    while (!due_.empty() && due_.begin()->first <= now) {
      auto work = std::move(due_.begin()->second);
      due_.erase(due_.begin());
      work();
    }
  }

private:
  std::multimap<time_point, std::function<void()>> due_;
};

class scripted_device final : public gpu::device_context, public std::enable_shared_from_this<scripted_device> {
public:
  scripted_device(
      std::shared_ptr<device_clock> clock, std::uint32_t vocab, std::uint32_t blocks, std::uint32_t block_size)
      : clock_(std::move(clock)),
        vocab_(vocab), geometry_{scripted_layers, 1, 2, gpu::compute_type::f32, block_size, blocks},
        rows_(std::size_t{scripted_layers} * blocks * block_size) {}

  const gpu::device_info& info() const override { return info_; }
  const gpu::kv_geometry& kv() const override { return geometry_; }
  std::uint32_t max_context() const override { return 512; }
  std::uint32_t vocab_size() const override { return vocab_; }
  std::span<const token_id> eos_tokens() const override { return {}; }
  std::uint64_t memory_used_bytes() const override { return geometry_.pool_bytes(); }

  void submit(gpu::step_plan plan, gpu::step_callback done) override {
    const auto takes = clock_->of(plan);
    clock_->after(takes, [self = shared_from_this(), plan = std::move(plan), done = std::move(done), takes] {
      done(self->compute(plan, takes));
    });
  }

  result<void> read_kv(std::uint32_t layer, std::span<const gpu::block_index> table, std::uint32_t begin,
      std::uint32_t count, std::span<std::byte> out) const override {
    for (std::size_t kv = 0; kv < 2; ++kv)
      for (std::uint32_t i = 0; i < count; ++i)
        std::memcpy(out.data() + (kv * count + i) * sizeof(std::uint64_t), &rows_[at(layer, table, begin + i)][kv],
            sizeof(std::uint64_t));
    return {};
  }
  result<void> write_kv(std::uint32_t layer, std::span<const gpu::block_index> table, std::uint32_t begin,
      std::uint32_t count, std::span<const std::byte> in) override {
    for (std::size_t kv = 0; kv < 2; ++kv)
      for (std::uint32_t i = 0; i < count; ++i)
        std::memcpy(&rows_[at(layer, table, begin + i)][kv], in.data() + (kv * count + i) * sizeof(std::uint64_t),
            sizeof(std::uint64_t));
    return {};
  }

private:
  std::size_t at(std::uint32_t layer, std::span<const gpu::block_index> table, std::uint32_t position) const {
    const std::size_t block = table[position / geometry_.block_size];
    return (layer * geometry_.blocks + block) * geometry_.block_size + position % geometry_.block_size;
  }

  gpu::step_result compute(const gpu::step_plan& plan, duration took) {
    gpu::step_result out;
    out.id = plan.id;
    out.elapsed = took;
    for (const auto& item : plan.items) {
      const auto end = item.position + static_cast<std::uint32_t>(item.tokens.size());
      for (std::uint32_t layer = 0; layer < scripted_layers; ++layer) {
        for (auto i = item.position; i < end; ++i)
          rows_[at(layer, item.block_table, i)] = row_of(item.tokens[i - item.position], i, layer);
        if (item.wants_layers) plan.on_layer(item.tag, layer);
      }
      std::uint64_t sum = 0;
      for (std::uint32_t i = 0; i < end; ++i)
        for (std::uint32_t layer = 0; layer < scripted_layers; ++layer)
          sum = fold(sum, rows_[at(layer, item.block_table, i)]);
      out.sampled.push_back(item.sample ? token_of(sum, vocab_) : gpu::step_result::no_token);
    }
    return out;
  }

  std::shared_ptr<device_clock> clock_;
  std::uint32_t vocab_;
  gpu::device_info info_{"cpu", "scripted", "portable", 1U << 30U, 1};
  gpu::kv_geometry geometry_;
  std::vector<kv_row> rows_;
};

class named_weights final : public gpu::weight_region {
public:
  const std::string& digest() const override { return digest_; }
  std::uint64_t bytes() const override { return 1000; }
  int fd() const override { return -1; }
  std::span<const std::byte> data() const override { return {}; }

private:
  std::string digest_{"scripted-weights"};
};

class scripted_transport;

/// What connects the transports of all processes of a test.
struct fabric {
  std::map<std::string, scripted_transport*> by_endpoint;
  bool fetches_fail{false};
  bool pulls_fail{false};
  bool pulls_wait{false};                                       ///< a pull has only begun until a test ends it ...
  std::vector<std::function<void(result<void>)>> waiting_pulls; ///< ... here
  std::vector<gpu::progress_callback> pull_progress;            ///< of those, to tell how far they are
  bool transfers_fail{false};
  std::uint64_t rows_moved{0};
  int fetches{0};
  int pulls{0};
  bool hold_links{false};                        ///< keeps back that a way is open ...
  std::vector<std::function<void()>> held_links; ///< ... here
};

class scripted_transport final : public gpu::transport {
public:
  scripted_transport(std::shared_ptr<fabric> net, const std::string& name)
      : net_(std::move(net)), endpoints_{"scripted:" + name, "weights:" + name} {
    net_->by_endpoint[endpoints_[0]] = this;
  }
  ~scripted_transport() override { net_->by_endpoint.erase(endpoints_[0]); }
  scripted_transport(const scripted_transport&) = delete;
  scripted_transport& operator=(const scripted_transport&) = delete;

  const gpu::endpoint_list& endpoints() const override { return endpoints_; }

  void link(gpu::endpoint_list peer, gpu::link_callback done) override {
    ++links[peer.at(0)];
    auto answer = [net = net_, to = peer.at(0), f = std::move(done)] {
      if (net->by_endpoint.count(to) > 0)
        f(std::string("local"));
      else
        f(fail(errc::reroute, "the peer is gone"));
    };
    if (net_->hold_links)
      net_->held_links.push_back(std::move(answer));
    else
      answer();
  }
  void unlink(gpu::endpoint_list peer) override {
    if (!peer.empty() && --links[peer.at(0)] == 0) links.erase(peer.at(0));
  }
  std::map<std::string, int> links; ///< kept open, by the peer's endpoint

  void expect(transfer_id id, std::uint64_t key, gpu::kv_shape shape, std::shared_ptr<gpu::device_context> context,
      std::vector<gpu::block_index> table, duration, gpu::transfer_callback on_received) override {
    sinks_[id] = {key, shape, std::move(context), std::move(table), std::move(on_received),
        std::uint64_t{shape.layers} * shape.tokens};
  }

  void open(transfer_id id, std::uint64_t key, gpu::kv_shape, std::shared_ptr<const gpu::device_context> context,
      std::vector<gpu::block_index> table, gpu::endpoint_list sink, duration,
      gpu::transfer_callback on_delivered) override {
    auto peer = net_->by_endpoint.find(sink.at(0));
    auto invited = peer != net_->by_endpoint.end() && !net_->transfers_fail && peer->second->invites(id, key);
    if (!invited) {
      on_delivered(id, fail(errc::reroute, "no invitation"));
      return;
    }
    sources_[id] = {std::move(context), std::move(table), sink.at(0), std::move(on_delivered), 0};
  }

  void push(transfer_id id, std::uint32_t layer, std::uint32_t begin, std::uint32_t count) override {
    auto found = sources_.find(id);
    if (found == sources_.end() || !found->second.done) return;
    auto& source = found->second;
    auto peer = net_->by_endpoint.find(source.peer);
    auto* sink = peer != net_->by_endpoint.end() ? peer->second->sink(id) : nullptr;
    if (sink == nullptr || net_->transfers_fail) {
      std::exchange(source.done, nullptr)(id, fail(errc::reroute, "the peer is gone"));
      return;
    }
    std::vector<std::byte> rows(count * sink->shape.token_layer_bytes);
    auto moved = source.context->read_kv(layer, source.table, begin, count, rows).and_then([&] {
      return sink->context->write_kv(layer, sink->table, begin, count, rows);
    });
    net_->rows_moved += count;
    source.bytes += rows.size();
    sink->missing -= count;
    if (!moved || sink->missing > 0) return;
    std::exchange(sink->done, nullptr)(id, {});
    std::exchange(source.done, nullptr)(id, {});
  }

  void close(transfer_id id, gpu::transfer_side side) override {
    if (side == gpu::transfer_side::sink)
      sinks_.erase(id);
    else
      sources_.erase(id);
  }

  gpu::transfer_stats stats(transfer_id id) const override {
    auto found = sources_.find(id);
    return {"local", found != sources_.end() ? found->second.bytes : 0};
  }

  void offer_weights(std::shared_ptr<const gpu::weight_region> region) override {
    offered_[region->digest()] = std::move(region);
  }
  void withdraw_weights(const std::string& digest) override { offered_.erase(digest); }
  void fetch_weights(gpu::endpoint_list holder, std::string digest, duration, weights_callback done) override {
    ++net_->fetches;
    auto peer = holder.empty() ? net_->by_endpoint.end() : net_->by_endpoint.find(holder[0]);
    if (net_->fetches_fail || peer == net_->by_endpoint.end()) return done(fail(errc::reroute, "the holder is gone"));
    auto found = peer->second->offered_.find(digest);
    if (found == peer->second->offered_.end()) return done(fail(errc::reroute, "no such weights"));
    done(found->second);
  }

  gpu::device_offer offer_device_weights(std::string, gpu::shared_device_memory) override { return {}; }
  void withdraw_device_weights(gpu::device_offer) override {}
  void fetch_device_weights(gpu::endpoint_list, std::string, duration, device_weights_callback done) override {
    done(fail(errc::reroute, "no device here has memory of its own"));
  }

  void grant_weights(std::string digest, std::uint64_t key, duration) override { granted_[key] = std::move(digest); }
  void limit_weights(std::uint64_t bytes_per_s) override { limit = bytes_per_s; }
  void pull_weights(
      gpu::endpoint_list holder, std::string digest, std::uint64_t key, duration, pull_callbacks calls) override {
    ++net_->pulls;
    auto peer = holder.empty() ? net_->by_endpoint.end() : net_->by_endpoint.find(holder[0]);
    if (net_->pulls_fail || peer == net_->by_endpoint.end())
      return calls.done(fail(errc::reroute, "the holder is gone"));
    auto found = peer->second->offered_.find(digest);
    if (found == peer->second->offered_.end() || peer->second->granted_[key] != digest)
      return calls.done(fail(errc::reroute, "the holder refuses"));
    if (calls.begun) calls.begun(found->second);
    const auto progress = calls.progress;
    auto finish = [calls = std::move(calls), region = found->second](result<void> outcome) {
      if (!outcome) return calls.done(pass(outcome.error()));
      calls.progress(region->bytes(), region->bytes());
      calls.done(region);
    };
    if (!net_->pulls_wait) return finish({});
    net_->pull_progress.push_back(progress);
    net_->waiting_pulls.push_back(std::move(finish));
  }
  void stop_pull(std::string) override {}
  gpu::weights_traffic weights_moved() override { return {}; }

  std::uint64_t limit{0};
  std::size_t open_transfers() const { return sinks_.size() + sources_.size(); }

private:
  struct sink_entry {
    std::uint64_t key{};
    gpu::kv_shape shape;
    std::shared_ptr<gpu::device_context> context;
    std::vector<gpu::block_index> table;
    gpu::transfer_callback done;
    std::uint64_t missing{};
  };
  struct source_entry {
    std::shared_ptr<const gpu::device_context> context;
    std::vector<gpu::block_index> table;
    std::string peer;
    gpu::transfer_callback done;
    std::uint64_t bytes{};
  };

  bool invites(transfer_id id, std::uint64_t key) const {
    auto found = sinks_.find(id);
    return found != sinks_.end() && found->second.key == key;
  }
  sink_entry* sink(transfer_id id) {
    auto found = sinks_.find(id);
    return found != sinks_.end() && found->second.done ? &found->second : nullptr;
  }

  std::shared_ptr<fabric> net_;
  gpu::endpoint_list endpoints_;
  std::map<transfer_id, sink_entry> sinks_;
  std::map<transfer_id, source_entry> sources_;
  std::map<std::string, std::shared_ptr<const gpu::weight_region>> offered_;
  std::map<std::uint64_t, std::string> granted_; ///< digest by key
};

} // namespace hflex::test
