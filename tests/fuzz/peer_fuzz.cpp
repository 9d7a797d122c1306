// A hostile peer of the data plane on a real socket. The first byte says what it plays (a source of KV rows, a taker of
// weights, a giver of weights), whether it begins as a good one would, and whether the magic numbers, versions and
// checksums of its frames are made right, which nobody guesses. Whatever it sends, it is answered or cut off, what it
// was to deliver ends once, and the next one meets the same transport.
#include "actors/common/check.hpp"
#include "gpu/model/model_config.hpp"
#include "gpu/model/region_head.hpp"
#include "gpu/transport/frame.hpp"
#include "gpu/transport/socket.hpp"
#include "gpu/transport/transport.hpp"
#include "gpu/transport/weights_frame.hpp"
#include "tests/support/fake_device.hpp"
#include <algorithm>
#include <atomic>
#include <future>
#include <poll.h>
#include <sys/socket.h>

namespace {

using namespace hflex;
using namespace hflex::gpu;
using bytes = std::vector<std::byte>;

constexpr std::uint64_t key = 7;
constexpr std::uint32_t layers = 2;
constexpr std::uint32_t tokens = 12;
constexpr int patience_ms = 60'000; ///< whoever waits longer has found a peer that is neither answered nor cut off
constexpr auto lease = std::chrono::hours{24};

/// One of a kind for the whole run: a transport lives longer than any peer.
struct bench {
  std::unique_ptr<transport> here;
  std::shared_ptr<const weight_region> region;
  region_head head;
  std::shared_ptr<test::fake_device> device{
      std::make_shared<test::fake_device>(kv_geometry{layers, 1, 4, compute_type::bf16, 4, 8})};
  tcp_listener listener;
  std::uint64_t next{1};

  bench() {
    transport_options options;
    options.enable_shm = options.enable_local = false;
    auto started = transport::start(options);
    const model_config shape{"LlamaForCausalLM", 64, 64, 1, 1, 1, 64, 64, 64, 1e-5F, 1e4F, true, false, 0, {}};
    auto weights = random_weights(shape, 1);
    auto listening = listen_tcp("127.0.0.1", 0);
    HFLEX_CHECK(started && weights && listening);
    here = std::move(*started);
    region = std::move(*weights);
    listener = std::move(*listening);
    auto read = read_region_head(region->data());
    HFLEX_CHECK(read.has_value());
    head = std::move(*read);
    here->offer_weights(region);
    here->grant_weights(region->digest(), key, lease);
  }
};

class peer_socket {
public:
  explicit peer_socket(unique_fd socket) : socket_{std::move(socket)} {}
  static peer_socket dial(const transport& to, std::string_view kind) {
    const auto& all = to.endpoints();
    const auto text = std::find_if(all.begin(), all.end(), [&](const auto& e) { return e.rfind(kind, 0) == 0; });
    HFLEX_CHECK(text != all.end());
    const auto colon = text->rfind(':');
    auto socket = dial_tcp(
        text->substr(kind.size(), colon - kind.size()), static_cast<std::uint16_t>(std::stoi(text->substr(colon + 1))));
    HFLEX_CHECK(socket.has_value());
    return peer_socket{std::move(*socket)};
  }
  /// Sends all, reading on the way, says that nothing follows, and reads until the other side hangs up.
  void play(std::span<const std::byte> out) {
    bytes scratch(64U << 10U);
    bool said_all = false;
    for (;;) {
      pollfd p{socket_.get(), static_cast<short>(said_all ? POLLIN : POLLIN | POLLOUT), 0};
      HFLEX_CHECK(::poll(&p, 1, patience_ms) == 1);
      if ((p.revents & POLLOUT) != 0 && !said_all) {
        const auto done = write_some(socket_.get(), out, -1);
        out = out.subspan(done.bytes);
        said_all = done.ended || out.empty();
        if (said_all) ::shutdown(socket_.get(), SHUT_WR);
      }
      if ((p.revents & ~POLLOUT) != 0 && read_some(socket_.get(), scratch).ended) return;
    }
  }

private:
  unique_fd socket_;
};

template <class Frame>
void append(bytes& to, const Frame& header) {
  to.insert(to.end(), header.begin(), header.end());
}

void append(bytes& to, const frame_header& h) {
  std::array<std::byte, frame_header_bytes> header{};
  encode(h, header);
  append(to, header);
}

/// Walks from frame to frame and puts right what would end the conversation at once.
void repair_rows(std::span<std::byte> out) {
  while (out.size() >= frame_header_bytes) {
    frame_header fixed;
    fixed.type = static_cast<frame_type>(1 + static_cast<unsigned>(out[6]) % 9U);
    std::array<std::byte, frame_header_bytes> good{};
    encode(fixed, good);
    std::copy_n(good.begin(), 8, out.begin());      // magic, version, type
    std::fill_n(out.begin() + 50, 6, std::byte{0}); // payload bytes: below 64 KiB
    const auto read = decode(out.first<frame_header_bytes>());
    const std::size_t payload = read && fixed.type == frame_type::data ? read->payload_bytes : 0;
    const auto rows = out.subspan(frame_header_bytes).first(std::min(payload, out.size() - frame_header_bytes));
    if (read) {
      auto summed = *read;
      summed.checksum = payload_checksum(rows);
      encode(summed, out.first<frame_header_bytes>());
    }
    out = out.subspan(frame_header_bytes + rows.size());
  }
}

void repair_weights(std::span<std::byte> out) {
  while (out.size() >= weights_frame_bytes) {
    const weights_frame fixed{static_cast<weights_frame_type>(1 + static_cast<unsigned>(out[6]) % 5U)};
    const auto good = encode(fixed);
    std::copy_n(good.begin(), 8, out.begin());
    std::fill_n(out.begin() + 26, 6, std::byte{0});
    const auto read = decode_weights_frame(out.first<weights_frame_bytes>());
    const std::size_t payload = read ? read->payload : 0;
    out = out.subspan(std::min(out.size(), weights_frame_bytes + payload));
  }
}

void play_source(bench& b, bool begins_well, const bytes& in) {
  const transfer_id id{b.next++};
  const kv_shape shape{layers, tokens, b.device->kv().token_layer_bytes(), b.device->kv().element};
  auto ended = std::make_shared<std::atomic<int>>(0);
  b.here->expect(id, key, shape, b.device, {0, 1, 2}, lease, [ended](transfer_id, result<void>) { ++*ended; });
  bytes out;
  if (begins_well) {
    frame_header hello;
    hello.type = frame_type::hello;
    append(out, hello);
    frame_header open;
    open.type = frame_type::open;
    open.transfer = id;
    open.key = key;
    open.layer = layers;
    open.count = tokens;
    open.code = static_cast<std::uint32_t>(shape.element);
    open.position = shape.token_layer_bytes;
    append(out, open);
  }
  out.insert(out.end(), in.begin(), in.end());
  peer_socket::dial(*b.here, "tcp:").play(out);
  b.here->close(id, transfer_side::sink);
  HFLEX_CHECK(*ended <= 1);
}

void play_taker(bench& b, bool begins_well, const bytes& in) {
  bytes out;
  if (begins_well) {
    const std::string& digest = b.region->digest();
    append(out, encode(weights_frame{weights_frame_type::pull, 0, 0, key, digest.size()}));
    const auto text = std::as_bytes(std::span{digest});
    out.insert(out.end(), text.begin(), text.end());
  }
  out.insert(out.end(), in.begin(), in.end());
  peer_socket::dial(*b.here, "weights:").play(out);
}

/// Pulls of a few digests in turn: a transport keeps for a while what a failed one had received.
void play_giver(bench& b, bool begins_well, const bytes& in) {
  bytes head(
      b.region->data().begin(), b.region->data().begin() + static_cast<std::ptrdiff_t>(b.head.layout.head_bytes));
  std::vector<hash128> sums = b.head.sums;
  sums[0] = {in.empty() ? 0U : static_cast<unsigned>(in.back()) % 16U, 0};
  const std::string digest = write_region_head(head, b.head.config, b.head.layout, sums);
  std::promise<bool> done;
  b.here->pull_weights({"weights:" + b.listener.address}, digest, key, lease,
      {{}, {}, [&](const result<std::shared_ptr<const weight_region>>& r) { done.set_value(r.has_value()); }});
  pollfd p{b.listener.socket.get(), POLLIN, 0};
  HFLEX_CHECK(::poll(&p, 1, patience_ms) == 1);
  unique_fd socket{::accept4(b.listener.socket.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC)};
  HFLEX_CHECK(static_cast<bool>(socket));
  bytes out;
  if (begins_well) {
    append(out, encode(weights_frame{weights_frame_type::head, 0, 0, 0, head.size()}));
    out.insert(out.end(), head.begin(), head.end());
  }
  out.insert(out.end(), in.begin(), in.end());
  peer_socket{std::move(socket)}.play(out);
  HFLEX_CHECK(!done.get_future().get()); // nobody has bytes with that checksum
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static bench b;
  if (size == 0) return 0;
  const unsigned choice = data[0];
  const auto* first = reinterpret_cast<const std::byte*>(data) + 1;
  bytes in(first, first + size - 1);
  const bool begins_well = choice / 3 % 2 == 0;
  if (choice / 6 % 2 == 0) {
    if (choice % 3 == 0)
      repair_rows(in);
    else
      repair_weights(in);
  }
  switch (choice % 3) {
  case 0:
    play_source(b, begins_well, in);
    break;
  case 1:
    play_taker(b, begins_well, in);
    break;
  default:
    play_giver(b, begins_well, in);
    break;
  }
  return 0;
}
