// Weights that go from host to host in chunks.
#include "gpu/model/model_config.hpp"
#include "gpu/model/region_head.hpp"
#include "gpu/transport/weights_frame.hpp"
#include "tests/support/transport_kit.hpp"

namespace hflex::transport_pull_test {

using namespace hflex::test;

namespace {

using region_ptr = std::shared_ptr<const gpu::weight_region>;

/// Eight chunks or so of random weights.
region_ptr some_weights(std::uint64_t seed = 1) {
  const gpu::model_config shape{
      "LlamaForCausalLM", 256, 1024, 6, 4, 2, 64, 32768, 512, 1e-5F, 1e4F, true, false, 0, {}};
  auto region = gpu::random_weights(shape, seed);
  REQUIRE(region);
  return *region;
}

/// A pull under way.
struct pulling {
  pulling(gpu::transport& to, const gpu::endpoint_list& from, const std::string& digest, std::uint64_t key,
      duration lease = long_lease) {
    to.pull_weights(from, digest, key, lease,
        {[s = state](std::uint64_t bytes, std::uint64_t total) { s->say(bytes, total); },
            [s = state](region_ptr r) { s->begin(std::move(r)); },
            [s = state, f = done.callback()](result<region_ptr> r) {
              if (r) s->region = *r;
              f({}, r ? result<void>{} : result<void>{tl::unexpected(r.error())});
            }});
  }
  /// Waits until so many bytes are there.
  void until(std::uint64_t bytes) {
    std::unique_lock lock{state->mutex};
    REQUIRE(state->changed.wait_for(lock, std::chrono::minutes{1}, [&] { return state->bytes >= bytes; }));
  }
  /// Waits until the head is there.
  region_ptr until_begun() {
    std::unique_lock lock{state->mutex};
    REQUIRE(state->changed.wait_for(lock, std::chrono::minutes{1}, [&] { return state->begun != nullptr; }));
    return state->begun;
  }
  struct shared {
    void begin(region_ptr r) {
      const std::lock_guard lock{mutex};
      begun = std::move(r);
      changed.notify_all();
    }
    void say(std::uint64_t now, std::uint64_t all) {
      const std::lock_guard lock{mutex};
      grew = grew && now > bytes;
      bytes = now;
      total = all;
      changed.notify_all();
    }
    std::mutex mutex;
    std::condition_variable changed;
    std::uint64_t bytes{0};
    std::uint64_t total{0};
    bool grew{true};
    region_ptr begun; ///< what it is going to be
    region_ptr region;
  };
  std::shared_ptr<shared> state{std::make_shared<shared>()};
  ending done;
};

bool same(const region_ptr& a, const region_ptr& b) {
  return a && b && a->digest() == b->digest() && std::equal(a->data().begin(), a->data().end(), b->data().begin());
}

/// Speaks frames by hand.
class line_end {
public:
  explicit line_end(gpu::unique_fd socket) : socket_{std::move(socket)} {}
  static line_end dial(const gpu::transport& to) {
    const auto text = endpoint_of(to, "weights");
    const auto colon = text.rfind(':');
    auto socket =
        gpu::dial_tcp(text.substr(8, colon - 8), static_cast<std::uint16_t>(std::stoi(text.substr(colon + 1))));
    REQUIRE(socket.has_value());
    return line_end{std::move(*socket)};
  }
  void send(const gpu::weights_frame& frame, std::span<const std::byte> payload = {}) {
    const auto header = gpu::encode(frame);
    send_bytes(header);
    send_bytes(payload);
  }
  void send_bytes(std::span<const std::byte> bytes) {
    while (!bytes.empty() && ready(POLLOUT)) {
      const auto done = gpu::write_some(socket_.get(), bytes, -1);
      if (done.ended) return;
      bytes = bytes.subspan(done.bytes);
    }
  }
  std::optional<gpu::weights_frame> receive(std::vector<std::byte>& payload) {
    std::array<std::byte, gpu::weights_frame_bytes> header{};
    if (!read(header)) return std::nullopt;
    const auto frame = gpu::decode_weights_frame(header);
    if (!frame) return std::nullopt;
    payload.resize(frame->payload);
    return read(payload) ? std::optional{*frame} : std::nullopt;
  }
  bool hung_up() {
    std::array<std::byte, 4096> bytes{};
    while (ready(POLLIN))
      if (gpu::read_some(socket_.get(), bytes).ended) return true;
    return false;
  }

private:
  bool read(std::span<std::byte> into) {
    while (!into.empty()) {
      if (!ready(POLLIN)) return false;
      const auto got = gpu::read_some(socket_.get(), into);
      if (got.ended) return false;
      into = into.subspan(got.bytes);
    }
    return true;
  }
  bool ready(short what) const {
    pollfd p{socket_.get(), what, 0};
    return ::poll(&p, 1, 60'000) == 1;
  }
  gpu::unique_fd socket_;
};

gpu::weights_frame pull_frame(std::uint64_t key, const std::string& digest) {
  return {gpu::weights_frame_type::pull, 0, 0, key, digest.size()};
}

/// A giver that answers one pull with these frames, by hand.
struct false_giver {
  false_giver() {
    auto bound = gpu::listen_tcp("127.0.0.1", 0);
    REQUIRE(bound);
    listener = std::move(bound->socket);
    endpoints = {"weights:" + bound->address};
  }
  line_end accept() const {
    pollfd p{listener.get(), POLLIN, 0};
    REQUIRE(::poll(&p, 1, 60'000) == 1);
    gpu::unique_fd s{::accept4(listener.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC)};
    REQUIRE(static_cast<bool>(s));
    return line_end{std::move(s)};
  }
  gpu::unique_fd listener;
  gpu::endpoint_list endpoints;
};

} // namespace

TEST_CASE("weights come from another host chunk by chunk and are the same") {
  const auto region = some_weights();
  auto giver = started({});
  auto taker = started({});
  giver->offer_weights(region);
  giver->grant_weights(region->digest(), 7, long_lease);
  pulling pull{*taker, giver->endpoints(), region->digest(), 7};
  REQUIRE(pull.done.ok());
  CHECK(same(pull.state->region, region));
  CHECK(pull.state->bytes == region->bytes());
  CHECK(pull.state->total == region->bytes());
  CHECK(pull.state->grew);
  CHECK(giver->weights_moved().bytes_sent > region->bytes());
  CHECK(taker->weights_moved().bytes_taken == region->bytes());
  // Sealed and whole: a neighbour can have it.
  taker->offer_weights(pull.state->region);
  auto neighbour = started({});
  ending fetched;
  neighbour->fetch_weights(taker->endpoints(), region->digest(), long_lease,
      [f = fetched.callback()](const result<region_ptr>& r) { f({}, r ? result<void>{} : pass(r.error())); });
  CHECK(fetched.ok());
}

TEST_CASE("a grant may come after its taker, and without one nothing is given") {
  const auto region = some_weights();
  auto giver = started({});
  auto taker = started({});
  giver->offer_weights(region);
  giver->grant_weights(region->digest(), 1, long_lease);
  giver->grant_weights("other weights", 2, long_lease);
  for (const std::uint64_t key : {0, 2, 3}) {
    pulling refused{*taker, giver->endpoints(), region->digest(), key, std::chrono::milliseconds{100}};
    CHECK(refused.done.failed(errc::retry));
  }
  pulling early{*taker, giver->endpoints(), region->digest(), 4};
  giver->grant_weights(region->digest(), 4, long_lease);
  CHECK(early.done.ok());
  CHECK(giver->weights_moved().bytes_sent < 2 * region->bytes());
}

TEST_CASE("a taker cut off at the end of its lease is told to go elsewhere") {
  const auto region = some_weights();
  auto giver = started({});
  auto taker = started({});
  giver->limit_weights(1U << 20U);
  giver->offer_weights(region);
  giver->grant_weights(region->digest(), 7, std::chrono::milliseconds{200});
  pulling pull{*taker, giver->endpoints(), region->digest(), 7};
  CHECK(pull.done.failed(errc::reroute));
}

TEST_CASE("a newcomer gives on what it has while it still receives, so that a chain costs its source one copy") {
  const auto region = some_weights();
  auto first = started({});
  std::vector<std::unique_ptr<gpu::transport>> chain;
  std::vector<std::unique_ptr<pulling>> pulls;
  first->limit_weights(64U << 20U);
  first->offer_weights(region);
  for (std::uint64_t i = 0; i < 3; ++i) {
    auto& from = chain.empty() ? *first : *chain.back();
    auto to = started({});
    pulls.push_back(std::make_unique<pulling>(*to, from.endpoints(), region->digest(), i));
    from.grant_weights(region->digest(), i, long_lease);
    chain.push_back(std::move(to));
  }
  for (auto& p : pulls) {
    REQUIRE(p->done.ok());
    CHECK(same(p->state->region, region));
  }
  CHECK(first->weights_moved().bytes_sent < region->bytes() + region->bytes() / 10);
  CHECK(chain[0]->weights_moved().bytes_sent > region->bytes());
}

TEST_CASE("when a source dies midway, another one is asked for the missing chunks only") {
  const auto region = some_weights();
  auto dying = started({});
  auto other = started({});
  auto taker = started({});
  dying->limit_weights(32U << 20U);
  for (auto* t : {dying.get(), other.get()}) {
    t->offer_weights(region);
    t->grant_weights(region->digest(), 7, long_lease);
  }
  pulling begun{*taker, dying->endpoints(), region->digest(), 7};
  begun.until(8U << 20U);
  dying.reset();
  REQUIRE(begun.done.failed(errc::reroute));
  pulling rest{*taker, other->endpoints(), region->digest(), 7};
  REQUIRE(rest.done.ok());
  CHECK(same(rest.state->region, region));
  CHECK(other->weights_moved().bytes_sent < region->bytes() - (7U << 20U));
}

TEST_CASE("a pull from another source takes the place of one that is under way, and goes on where it was") {
  const auto region = some_weights();
  auto slow = started({});
  auto fast = started({});
  auto taker = started({});
  slow->limit_weights(32U << 20U);
  for (auto* t : {slow.get(), fast.get()}) {
    t->offer_weights(region);
    t->grant_weights(region->digest(), 7, long_lease);
  }
  pulling first{*taker, slow->endpoints(), region->digest(), 7};
  first.until(8U << 20U);
  pulling second{*taker, fast->endpoints(), region->digest(), 7};
  CHECK(first.done.failed(errc::reroute));
  REQUIRE(second.done.ok());
  CHECK(fast->weights_moved().bytes_sent < region->bytes() - (7U << 20U));
}

TEST_CASE("a pull that is stopped goes on later where it was") {
  const auto region = some_weights();
  auto giver = started({});
  auto taker = started({});
  giver->limit_weights(32U << 20U);
  giver->offer_weights(region);
  giver->grant_weights(region->digest(), 7, long_lease);
  pulling begun{*taker, giver->endpoints(), region->digest(), 7};
  begun.until(8U << 20U);
  taker->stop_pull(region->digest());
  CHECK(begun.done.failed(errc::reroute));
  giver->limit_weights(0);
  pulling again{*taker, giver->endpoints(), region->digest(), 7};
  REQUIRE(again.done.ok());
  CHECK(same(again.state->region, region));
}

TEST_CASE("a giver that sends other bytes than the digest promises is found out at the first wrong chunk") {
  const auto region = some_weights();
  const auto head = gpu::read_region_head(region->data()).value();
  const auto head_bytes = region->data().first(head.layout.head_bytes);
  const auto answer = [&](auto play) {
    auto taker = started({});
    false_giver giver;
    pulling pull{*taker, giver.endpoints, region->digest(), 7};
    auto line = giver.accept();
    std::vector<std::byte> digest;
    const auto frame = line.receive(digest);
    REQUIRE(frame);
    CHECK(frame->key == 7);
    play(line);
    return pull.done.failed(errc::reject);
  };
  const auto send_head = [&](line_end& line) {
    line.send({gpu::weights_frame_type::head, 0, 0, 0, head_bytes.size()}, head_bytes);
  };
  const auto chunk = [&](std::uint32_t i) {
    const auto at = region->data().subspan(head.layout.chunk_offset(i), head.layout.chunk_size(i));
    return std::vector<std::byte>(at.begin(), at.end());
  };
  CHECK(answer([&](line_end& line) { // a damaged chunk
    send_head(line);
    auto bytes = chunk(1);
    bytes[12345] ^= std::byte{1};
    line.send({gpu::weights_frame_type::chunk, 1, 0, 0, bytes.size()}, bytes);
  }));
  CHECK(answer([&](line_end& line) { // a chunk that there is not
    send_head(line);
    line.send({gpu::weights_frame_type::chunk, head.layout.chunks(), 0, 0, 64});
  }));
  CHECK(answer([&](line_end& line) { // one of another size
    send_head(line);
    line.send({gpu::weights_frame_type::chunk, 0, 0, 0, 64});
  }));
  CHECK(answer([&](line_end& line) { // the same twice
    send_head(line);
    line.send({gpu::weights_frame_type::chunk, 0, 0, 0, chunk(0).size()}, chunk(0));
    line.send({gpu::weights_frame_type::chunk, 0, 0, 0, chunk(0).size()});
  }));
  CHECK(answer([&](line_end& line) { // before the head
    line.send({gpu::weights_frame_type::chunk, 0, 0, 0, chunk(0).size()});
  }));
  CHECK(answer([&](line_end& line) { // the head of other weights
    const auto other = some_weights(2);
    line.send({gpu::weights_frame_type::head, 0, 0, 0, head_bytes.size()}, other->data().first(head_bytes.size()));
  }));
  CHECK(answer([&](line_end& line) { line.send({gpu::weights_frame_type::head, 0, 0, 0, gpu::max_head_bytes + 1}); }));
  CHECK(answer([&](line_end& line) { // a second head, which would be answered by as many questions as the first
    send_head(line);
    line.send({gpu::weights_frame_type::head, 0, 0, 0, 1}, head_bytes.first(1));
  }));
  CHECK(answer([&](line_end& line) { line.send_bytes(std::vector<std::byte>(64, std::byte{9})); }));
}

TEST_CASE("a taker that breaks the protocol is cut off and harms nobody") {
  const auto region = some_weights();
  auto giver = started({});
  auto taker = started({});
  giver->limit_weights(64U << 20U);
  giver->offer_weights(region);
  giver->grant_weights(region->digest(), 7, long_lease);
  pulling pull{*taker, giver->endpoints(), region->digest(), 7};
  pull.until(1);
  const auto digest = std::as_bytes(std::span{region->digest()});
  const auto cut_off = [&](auto play) {
    auto line = line_end::dial(*giver);
    play(line);
    return line.hung_up();
  };
  const auto let_in = [&](line_end& line) {
    line.send(pull_frame(7, region->digest()), digest);
    std::vector<std::byte> head;
    REQUIRE(line.receive(head));
  };
  CHECK(cut_off([&](line_end& line) { line.send_bytes(std::vector<std::byte>(200, std::byte{5})); }));
  CHECK(cut_off([&](line_end& line) { line.send({gpu::weights_frame_type::ask, 0, 1}); })); // before it is let in
  CHECK(cut_off([&](line_end& line) {
    let_in(line);
    line.send({gpu::weights_frame_type::ask, 1, UINT32_MAX});
  }));
  CHECK(cut_off([&](line_end& line) {
    let_in(line);
    for (int i = 0; i < 100; ++i) line.send({gpu::weights_frame_type::ask, 0, 4}); // more than there are
  }));
  CHECK(cut_off([&](line_end& line) {
    let_in(line);
    line.send(pull_frame(7, region->digest()), digest);
  }));
  REQUIRE(pull.done.ok());
  CHECK(same(pull.state->region, region));
}

TEST_CASE("processes that claim different hosts share no memory") {
  const auto region = some_weights();
  gpu::transport_options other;
  other.host_id = "elsewhere";
  auto giver = started({});
  auto taker = started(other);
  giver->offer_weights(region);
  ending fetched;
  taker->fetch_weights(giver->endpoints(), region->digest(), long_lease,
      [f = fetched.callback()](const result<region_ptr>& r) { f({}, r ? result<void>{} : pass(r.error())); });
  CHECK(fetched.failed(errc::reroute));
  CHECK(endpoint_of(*taker, "shm").rfind("shm:elsewhere:", 0) == 0);
}

} // namespace hflex::transport_pull_test
