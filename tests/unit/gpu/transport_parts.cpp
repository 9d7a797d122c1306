// The transport's pure parts, each by itself.
#include "gpu/transport/coverage.hpp"
#include "gpu/transport/endpoint.hpp"
#include "gpu/transport/outbox.hpp"
#include "gpu/transport/ring.hpp"
#include "tests/support/transport_kit.hpp"
#include <fcntl.h>

namespace hflex::transport_parts_test {

using namespace hflex::gpu;

TEST_CASE("a frame header survives the wire, and its bytes are little-endian") {
  frame_header h;
  h.type = frame_type::data;
  h.transfer = {0x0102030405060708};
  h.key = 0xa1a2a3a4a5a6a7a8;
  h.layer = 3;
  h.begin = 4;
  h.count = 5;
  h.code = 6;
  h.position = 7;
  h.payload_bytes = 8;
  h.checksum = 9;
  std::array<std::byte, frame_header_bytes> bytes{};
  encode(h, bytes);
  CHECK(std::memcmp(bytes.data(), "HFLX", 4) == 0);
  CHECK(bytes[8] == std::byte{8});
  CHECK(bytes[15] == std::byte{1});
  const auto back = decode(bytes);
  REQUIRE(back);
  CHECK(back->type == h.type);
  CHECK(back->transfer == h.transfer);
  CHECK(back->key == h.key);
  CHECK(back->layer == h.layer);
  CHECK(back->begin == h.begin);
  CHECK(back->count == h.count);
  CHECK(back->code == h.code);
  CHECK(back->position == h.position);
  CHECK(back->payload_bytes == h.payload_bytes);
  CHECK(back->checksum == h.checksum);
}

TEST_CASE("a header with another magic, version, type or an outsized payload is no frame") {
  const auto refused = [](std::size_t at, int value, frame_type type, std::uint64_t payload) {
    frame_header h;
    h.type = type;
    h.payload_bytes = payload;
    std::array<std::byte, frame_header_bytes> bytes{};
    encode(h, bytes);
    if (at < bytes.size()) bytes[at] = static_cast<std::byte>(value);
    const auto decoded = decode(bytes);
    return !decoded && decoded.error().code == errc::reject;
  };
  constexpr std::size_t nowhere = frame_header_bytes;
  CHECK_FALSE(refused(nowhere, 0, frame_type::data, max_payload_bytes));
  CHECK(refused(0, 'X', frame_type::data, 0));
  CHECK(refused(4, frame_version + 1, frame_type::data, 0));
  CHECK(refused(6, 0, frame_type::data, 0));
  CHECK(refused(6, 10, frame_type::data, 0));
  CHECK(refused(nowhere, 0, frame_type::data, max_payload_bytes + 1));
  CHECK(refused(nowhere, 0, frame_type::open, 1));
  CHECK(refused(nowhere, 0, frame_type::want, max_digest_bytes + 1));
}

TEST_CASE("coverage is complete when every cell came once, and only then") {
  for (const std::uint32_t tokens : {1U, 63U, 64U, 65U, 130U}) {
    INFO(tokens);
    coverage c{2, tokens};
    for (std::uint32_t layer = 0; layer < 2; ++layer)
      for (std::uint32_t at = tokens; at-- > 0;) {
        CHECK_FALSE(c.complete());
        CHECK(c.is_new(layer, at, 1));
        c.mark(layer, at, 1);
        CHECK_FALSE(c.is_new(layer, 0, tokens));
      }
    CHECK(c.complete());
  }
  coverage c{1, 200};
  c.mark(0, 60, 80);
  CHECK(c.is_new(0, 0, 60));
  CHECK_FALSE(c.is_new(0, 0, 61));
  CHECK_FALSE(c.is_new(0, 139, 1));
  CHECK(c.is_new(0, 140, 60));
  CHECK_FALSE(c.is_new(0, 140, 61));
  CHECK_FALSE(c.is_new(0, 5, 0));
  CHECK_FALSE(c.is_new(1, 0, 1));
  CHECK_FALSE(c.is_new(0, 0xffffffffU, 2));
}

TEST_CASE("a ring hands out contiguous room, waits for credit and wraps without a gap in the data") {
  auto made = ring_writer::create(min_ring_bytes);
  REQUIRE(made);
  auto& writer = made->first;
  unique_fd copy{::fcntl(made->second.get(), F_DUPFD_CLOEXEC, 0)};
  auto reader = ring_reader::map(std::move(copy), min_ring_bytes);
  REQUIRE(reader);
  constexpr std::uint64_t chunk = min_ring_bytes / 4 - 100;
  CHECK_FALSE(writer.credit(64)); // nothing was written yet
  for (int round = 0; round < 50; ++round) {
    INFO(round);
    std::uint64_t last = 0;
    int written = 0;
    for (;; ++written) {
      const auto room = writer.reserve(chunk, chunk);
      if (room.empty()) break;
      std::fill(room.begin(), room.end(), static_cast<std::byte>(round + written));
      last = writer.commit(chunk);
      const auto seen = reader->at(last, chunk);
      REQUIRE(seen);
      CHECK(seen->front() == static_cast<std::byte>(round + written));
      CHECK(seen->back() == static_cast<std::byte>(round + written));
    }
    CHECK(written >= 3);
    reader->consume(last, chunk);
    CHECK_FALSE(writer.credit(reader->consumed() + 64)); // more than was ever written
    CHECK(writer.credit(reader->consumed()));
    CHECK_FALSE(writer.credit(reader->consumed() - min_ring_bytes / 2)); // credit never shrinks
  }
}

TEST_CASE("only ways that can work from here are used, the cheapest first") {
  const transport_options all;
  const endpoint_list peer{"tcp:[::1]:80", "shm:here:name", "tcp:10.0.0.1:65535", "local:me", "tcp:10.0.0.1:65536",
      "tcp:10.0.0.1:0", "tcp::80", "tcp:host", "tcp:h:8x", "shm:there:name", "shm:here:", "local:you", "rdma:x", "",
      std::string(300, 't')};
  const auto texts = [&](const transport_options& o) {
    std::vector<std::string> out;
    for (const auto& e : usable_endpoints(peer, o, "me", "here")) out.push_back(e.text);
    return out;
  };
  CHECK(texts(all) == std::vector<std::string>{"local:me", "shm:here:name", "tcp:[::1]:80", "tcp:10.0.0.1:65535"});
  CHECK(texts(test::only("shm")) == std::vector<std::string>{"shm:here:name"});
  const auto ways = usable_endpoints(peer, test::only("tcp"), "me", "here");
  REQUIRE(ways.size() == 2);
  CHECK(ways[0].address == "::1");
  CHECK(ways[0].port == 80);
  CHECK(usable_endpoints(endpoint_list(1000, "local:me"), all, "me", "here").size() == 16);
}

TEST_CASE("the outbox wakes once per look, bounds a peer's bytes and forgets what is finished") {
  outbox o{1000};
  const kv_shape shape{2, 10, 50};
  REQUIRE(o.add({1}, shape, "peer"));
  CHECK_FALSE(o.add({1}, shape, "peer"));
  REQUIRE(o.add({2}, shape, "peer"));
  REQUIRE(o.add({3}, shape, "other"));
  CHECK_FALSE(o.push({9}, {0, 0, 1}));
  CHECK(o.push({1}, {0, 0, 10}));
  CHECK_FALSE(o.push({1}, {1, 0, 9}));
  CHECK_FALSE(o.look({1}));
  CHECK(o.push({2}, {0, 0, 1})); // 1000 bytes: just fits
  CHECK(o.push({3}, {0, 0, 10}));
  CHECK(o.push({1}, {1, 9, 1}));
  const auto wrong = o.look({1});
  REQUIRE(wrong);
  CHECK(wrong->code == errc::retry);
  o.finish({1});
  CHECK_FALSE(o.next({1}));
  CHECK_FALSE(o.push({1}, {0, 0, 1}));
  CHECK_FALSE(o.look({2}));
  CHECK(o.push({2}, {0, 1, 9})); // its room is free again
  CHECK_FALSE(o.look({2}));
  o.sent({2}, 1, "tcp");
  o.sent({2}, 4, "tcp");
  CHECK(o.next({2})->begin == 5);
  CHECK(o.next({2})->count == 5);
  CHECK(o.stats({2}).bytes_total == 250);
  CHECK(o.push({2}, {2, 0, 1}));
  CHECK(o.look({2})->code == errc::reject);
  o.erase({2});
  CHECK(o.stats({2}).path.empty());
}

} // namespace hflex::transport_parts_test
