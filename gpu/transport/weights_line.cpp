#include "gpu/transport/weights_line.hpp"
#include "gpu/transport/socket.hpp"

namespace hflex::gpu {
namespace {

using namespace std::chrono_literals;

constexpr auto progress_interval = 50ms;
/// Chunks of a pull that failed, and a region that its owner never offered, are kept so long.
constexpr auto keep_time = 60s;

} // namespace

result<std::unique_ptr<weights_line>> weights_line::start(const std::string& listen_host) {
  auto loop = event_loop::create();
  if (!loop) return pass(loop.error());
  auto bound = listen_tcp(listen_host, 0);
  if (!bound) return pass(bound.error());
  std::unique_ptr<weights_line> line{new weights_line{std::move(*loop)}};
  line->endpoint_ = "weights:" + bound->address;
  if (auto begun = line->giver_.listen(std::move(bound->socket)); !begun) return pass(begun.error());
  if (auto up = line->loop_->launch([] {}); !up) return pass(up.error());
  return line;
}

weights_line::~weights_line() {
  loop_->stop([this] {
    giver_.close_all();
    while (!pulls_.empty()) {
      const auto digest = pulls_.begin()->first;
      complete(digest, fail(errc::reroute, "transport ends"));
    }
  });
}

void weights_line::offer(std::shared_ptr<const weight_region> region) {
  loop_->post([this, r = std::move(region)] {
    if (const auto it = forgotten_.find(r->digest()); it != forgotten_.end()) {
      loop_->cancel(it->second);
      forgotten_.erase(it);
    }
    const std::string& digest = r->digest();
    if (pulls_.count(digest) == 0) shelf_.offer(r);
    giver_.changed(digest);
  });
}

void weights_line::withdraw(const std::string& digest) {
  loop_->post([this, digest] {
    shelf_.withdraw(digest);
    giver_.changed(digest);
  });
}

void weights_line::grant(std::string digest, std::uint64_t key, duration lease) {
  loop_->post([this, d = std::move(digest), key, lease] { giver_.grant(d, key, lease); });
}

void weights_line::limit(std::uint64_t bytes_per_s) {
  loop_->post([this, bytes_per_s] { giver_.limit(bytes_per_s); });
}

weights_traffic weights_line::traffic() {
  weights_traffic t;
  loop_->run_sync([&] { t = {giver_.bytes_sent(), bytes_taken_}; });
  return t;
}

void weights_line::pull(std::vector<endpoint> ways, weights_order order, transport::pull_callbacks calls) {
  loop_->post([this, w = std::move(ways), o = std::move(order), c = std::move(calls)]() mutable {
    const std::string digest = o.digest;
    if (auto here = shelf_.whole(digest)) return c.done(std::move(here));
    complete(digest, fail(errc::reroute, "pulled from elsewhere"));
    if (const auto it = forgotten_.find(digest); it != forgotten_.end()) {
      loop_->cancel(it->second);
      forgotten_.erase(it);
    }
    pulls_[digest] = {std::move(w), 0, std::move(o), std::move(c), nullptr, {}};
    begin(digest);
  });
}

void weights_line::stop_pull(std::string digest) {
  loop_->post([this, d = std::move(digest)] {
    if (pulls_.count(d) == 0) return;
    complete(d, fail(errc::reroute, "not wanted any more"));
    forget_later(d);
  });
}

void weights_line::begin(const std::string& digest) {
  auto& p = pulls_.at(digest);
  error last{errc::reroute, "the holder names no address for weights"};
  for (; p.way < p.ways.size(); ++p.way) {
    p.taker = std::make_unique<weights_taker>(*loop_, shelf_, p.order,
        weights_taker::events{[this, digest](const partial_weights& weights) {
                                if (const auto& begun = pulls_.at(digest).calls.begun) begun(weights.region());
                              },
            [this, digest] { on_chunk(digest); },
            [this, digest](result<void> r) {
              loop_->defer([this, digest, outcome = std::move(r)] { on_end(digest, outcome); });
            }});
    auto begun = p.taker->begin(p.ways[p.way]);
    if (begun) return;
    last = begun.error();
  }
  complete(digest, tl::unexpected(last));
  forget_later(digest);
}

void weights_line::on_chunk(const std::string& digest) {
  giver_.changed(digest);
  auto& p = pulls_.at(digest);
  const auto* weights = shelf_.arriving(digest);
  const auto now = event_loop::clock::now();
  if (!p.calls.progress || weights == nullptr || (now - p.told < progress_interval && weights->missing() > 0)) return;
  p.told = now;
  p.calls.progress(weights->bytes_here(), weights->bytes());
}

void weights_line::on_end(const std::string& digest, result<void> outcome) {
  if (pulls_.count(digest) == 0) return; // dropped meanwhile
  if (!outcome) {
    complete(digest, pass(outcome.error()));
    return forget_later(digest);
  }
  auto* weights = shelf_.arriving(digest);
  bytes_taken_ += weights->bytes();
  auto region = weights->seal();
  if (region)
    shelf_.offer(*region);
  else
    shelf_.drop_arriving(digest);
  giver_.changed(digest);
  complete(digest, std::move(region));
  forget_later(digest); // unless its owner offers it
}

void weights_line::complete(const std::string& digest, result<std::shared_ptr<const weight_region>> outcome) {
  auto node = pulls_.extract(digest);
  if (node.empty()) return;
  node.mapped().taker.reset();
  node.mapped().calls.done(std::move(outcome));
}

void weights_line::forget_later(const std::string& digest) {
  auto& timer = forgotten_[digest];
  loop_->cancel(timer);
  timer = loop_->after(keep_time, [this, digest] {
    forgotten_.erase(digest);
    shelf_.drop_arriving(digest);
    shelf_.withdraw(digest);
    giver_.changed(digest);
  });
}

} // namespace hflex::gpu
