// Puts the parts of a transport together: checks options, opens the listeners, and carries the calls of any thread to
// the I/O thread. Holds no rule of its own.
#include "gpu/transport/transport.hpp"
#include "gpu/transport/endpoint.hpp"
#include "gpu/transport/kv_shape.hpp"
#include "gpu/transport/kv_source.hpp"
#include "gpu/transport/reception.hpp"
#include "gpu/transport/socket.hpp"
#include "gpu/transport/weights_line.hpp"

namespace hflex::gpu {
namespace {

constexpr std::uint64_t page_bytes = 4096;

class transport_engine final : public transport {
public:
  transport_engine(transport_options options, std::unique_ptr<event_loop> loop)
      : options_{std::move(options)}, local_id_{random_name()}, host_id_{options_.host_id.empty() ? shm_host_id()
                                                                                                  : options_.host_id},
        loop_{std::move(loop)}, pushed_{options_.max_queued_bytes}, sink_{*loop_, completions_, options_.max_transfers},
        source_{*loop_, completions_, pushed_, sink_, options_}, weights_{*loop_, completions_}, reception_{*loop_,
                                                                                                     sink_, weights_} {}

  transport_engine(const transport_engine&) = delete;
  transport_engine& operator=(const transport_engine&) = delete;

  ~transport_engine() override {
    line_.reset();
    loop_->stop([this] {
      ending_ = true;
      source_.close_all();
      sink_.close_all();
      weights_.close_all();
      reception_.close_all();
      completions_.run();
    });
    weights_.finish_mapping();
  }

  result<void> listen() {
    if (options_.enable_local) endpoints_.push_back("local:" + local_id_);
    if (options_.enable_shm) {
      const std::string name = "hflex-" + random_name();
      auto socket = listen_unix(name);
      if (!socket) return pass(socket.error());
      if (auto begun = reception_.listen(std::move(*socket), true); !begun) return begun;
      endpoints_.push_back("shm:" + host_id_ + ":" + name);
    }
    if (options_.enable_tcp) {
      auto bound = listen_tcp(options_.listen_host, options_.tcp_port);
      if (!bound) return pass(bound.error());
      if (auto begun = reception_.listen(std::move(bound->socket), false); !begun) return begun;
      endpoints_.push_back("tcp:" + bound->address);
      auto line = weights_line::start(options_.listen_host);
      if (!line) return pass(line.error());
      line_ = std::move(*line);
      endpoints_.push_back(line_->endpoint_text());
    }
    return loop_->launch([this] { completions_.run(); });
  }

  const endpoint_list& endpoints() const override { return endpoints_; }

  void expect(transfer_id id, std::uint64_t key, kv_shape shape, std::shared_ptr<device_context> context,
      std::vector<block_index> table, duration lease, transfer_callback on_received) override {
    sink_.expect({id, key, shape, std::move(context), std::move(table), lease, std::move(on_received)});
    on_loop([this] { sink_.admit(); });
  }

  void link(endpoint_list peer, link_callback done) override {
    on_loop([this, p = std::move(peer), f = std::move(done)]() mutable {
      auto ways = usable_endpoints(p, options_, local_id_, host_id_);
      source_.link(fmt::format("{}", fmt::join(p, " ")), std::move(ways), std::move(f));
    });
  }
  void unlink(endpoint_list peer) override {
    if (peer.empty()) return;
    on_loop([this, p = std::move(peer)] { source_.unlink(fmt::format("{}", fmt::join(p, " "))); });
  }

  void open(transfer_id id, std::uint64_t key, kv_shape shape, std::shared_ptr<const device_context> context,
      std::vector<block_index> table, endpoint_list sink, duration lease, transfer_callback on_delivered) override {
    auto possible = check_transfer(id, shape, context.get(), table);
    // Known before this returns, so that a push from another thread finds it.
    if (possible && !pushed_.add(id, shape, fmt::format("{}", fmt::join(sink, " "))))
      possible = fail(errc::reject, "outbound KV transfer {}: already open", id.value);
    source_.open({id, key, shape, std::move(context), std::move(table),
                     usable_endpoints(sink, options_, local_id_, host_id_), lease, std::move(on_delivered)},
        std::move(possible));
    on_loop([this] { source_.admit(); });
  }

  void push(transfer_id id, std::uint32_t layer, std::uint32_t begin, std::uint32_t count) override {
    if (pushed_.push(id, {layer, begin, count})) on_loop([this, id] { source_.wake(id); });
  }

  void close(transfer_id id, transfer_side side) override {
    loop_->run_sync([&] {
      if (side == transfer_side::sink)
        sink_.close(id);
      else
        source_.close(id);
    });
  }

  transfer_stats stats(transfer_id id) const override { return pushed_.stats(id); }

  void offer_weights(std::shared_ptr<const weight_region> region) override {
    weights_.offer(region);
    if (line_) line_->offer(std::move(region));
  }
  void withdraw_weights(const std::string& digest) override {
    weights_.withdraw(digest);
    if (line_) line_->withdraw(digest);
  }
  void fetch_weights(endpoint_list holder, std::string digest, duration deadline, weights_callback done) override {
    on_loop(
        [this, ways = usable_endpoints(holder, options_, local_id_, host_id_), d = std::move(digest), deadline,
            f = std::move(done)]() mutable { weights_.fetch(std::move(ways), std::move(d), deadline, std::move(f)); });
  }

  device_offer offer_device_weights(std::string key, shared_device_memory memory) override {
    return weights_.offer_device(std::move(key), std::move(memory));
  }
  void withdraw_device_weights(device_offer offer) override { weights_.withdraw_device(offer); }
  void fetch_device_weights(
      endpoint_list holder, std::string key, duration deadline, device_weights_callback done) override {
    on_loop([this, ways = usable_endpoints(holder, options_, local_id_, host_id_), k = std::move(key), deadline,
                f = std::move(done)]() mutable {
      weights_.fetch_device(std::move(ways), std::move(k), deadline, std::move(f));
    });
  }

  void grant_weights(std::string digest, std::uint64_t key, duration lease) override {
    if (line_) line_->grant(std::move(digest), key, lease);
  }
  void limit_weights(std::uint64_t bytes_per_s) override {
    if (line_) line_->limit(bytes_per_s);
  }
  void pull_weights(
      endpoint_list holder, std::string digest, std::uint64_t key, duration lease, pull_callbacks calls) override {
    if (!line_) return calls.done(fail(errc::reroute, "this process moves nothing by TCP"));
    line_->pull(weights_endpoints(holder), {std::move(digest), key, lease}, std::move(calls));
  }
  void stop_pull(std::string digest) override {
    if (line_) line_->stop_pull(std::move(digest));
  }
  weights_traffic weights_moved() override { return line_ ? line_->traffic() : weights_traffic{}; }

private:
  /// Runs `work` later on the I/O thread, unless the transport ends before.
  template <class F>
  void on_loop(F work) {
    loop_->post([this, w = std::move(work)]() mutable {
      if (!ending_) w();
    });
  }

  const transport_options options_;
  const std::string local_id_;
  const std::string host_id_;
  endpoint_list endpoints_;
  const std::unique_ptr<event_loop> loop_; // outlives everything that watches or times with it
  completion_queue completions_;
  outbox pushed_;
  kv_sink sink_;
  kv_source source_;
  weights_exchange weights_;
  reception reception_;
  std::unique_ptr<weights_line> line_; ///< none without TCP
  bool ending_{false};
};

} // namespace

result<std::unique_ptr<transport>> transport::start(transport_options options) {
  options.ring_bytes = (options.ring_bytes + page_bytes - 1) / page_bytes * page_bytes;
  if (options.ring_bytes < min_ring_bytes || options.ring_bytes > max_ring_bytes)
    return fail(errc::reject, "ring_bytes {}: expected {} to {}", options.ring_bytes, min_ring_bytes, max_ring_bytes);
  auto loop = event_loop::create();
  if (!loop) return pass(loop.error());
  auto engine = std::make_unique<transport_engine>(std::move(options), std::move(*loop));
  if (auto up = engine->listen(); !up) return pass(up.error());
  return engine;
}

} // namespace hflex::gpu
