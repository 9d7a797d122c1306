// Strangers on the cluster's ports: whatever they send, the cluster goes on serving.
#include "gpu/transport/frame.hpp"
#include "tests/system/cluster.hpp"
#include <arpa/inet.h>
#include <cstring>
#include <netinet/in.h>
#include <random>
#include <sys/socket.h>
#include <unistd.h>

namespace hflex::test::garbage_test {

namespace {

/// Sends the bytes and goes, without waiting for an answer. What the other side thinks of it is its own affair.
void send_to(std::uint16_t port, const std::string& bytes) {
  int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  REQUIRE(fd >= 0);
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(port);
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  REQUIRE(::connect(fd, reinterpret_cast<const sockaddr*>(&to), sizeof(to)) == 0);
  timeval longest{1, 0};
  ::setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &longest, sizeof(longest));
  (void)!::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL); // refused half way is as good
  ::shutdown(fd, SHUT_WR);
  ::close(fd);
}

std::string noise(std::mt19937& random, std::size_t size) {
  std::string bytes(size, '\0');
  for (auto& b : bytes) b = static_cast<char>(random());
  return bytes;
}

void put_big_endian(std::string& bytes, std::uint64_t value, int width) {
  for (int i = width - 1; i >= 0; --i) bytes.push_back(static_cast<char>(value >> (8 * i)));
}

/// A header of CAF's BASP: operation, padding, flags, payload length, operation data, source and destination actor.
std::string basp_header(
    unsigned operation, std::uint32_t length, std::uint64_t data, std::uint64_t from, std::uint64_t to) {
  std::string bytes{static_cast<char>(operation), '\0', '\0', '\0'};
  put_big_endian(bytes, length, 4);
  put_big_endian(bytes, data, 8);
  put_big_endian(bytes, from, 8);
  put_big_endian(bytes, to, 8);
  return bytes;
}

/// A header as CAF accepts it, or nearly, and something like its payload.
std::string basp_like(std::mt19937& random) {
  std::uint32_t length = random() % 64;
  return basp_header(random() % 8, length, random() % 4, random() % 4, random() % 16) + noise(random, random() % 96);
}

/// A well-formed frame of the KV transport, with fields of no meaning.
std::string frame_like(std::mt19937& random, hflex::gpu::frame_type first) {
  std::string bytes;
  for (int n = 0; n < 3; ++n) {
    hflex::gpu::frame_header header;
    header.type = n == 0 ? first : static_cast<hflex::gpu::frame_type>(1 + random() % 9);
    header.transfer.value = random() % 4;
    header.key = random() % 4;
    header.layer = random() % 8;
    header.begin = random() % 32;
    header.count = random() % 32;
    header.code = random() % 9;
    header.position = random() % 4096;
    header.payload_bytes = random() % 128;
    std::array<std::byte, hflex::gpu::frame_header_bytes> encoded{};
    hflex::gpu::encode(header, encoded);
    bytes.append(reinterpret_cast<const char*>(encoded.data()), encoded.size());
    bytes += noise(random, header.payload_bytes);
  }
  return bytes;
}

} // namespace

TEST_CASE("garbage on the ports of the head and the agents leaves the cluster serving") {
  cluster_options o;
  o.agent_words = {"--no-shm"}; // KV goes by TCP, through the ports that are under fire
  cluster c{o};
  auto jobs = some_jobs(8, 60);
  auto before = c.submit(jobs);
  check_all_finished(before, jobs.size());

  auto agent_ports = listening_ports(c.agent("a").pid());
  for (auto port : listening_ports(c.agent("b").pid())) agent_ports.push_back(port);
  REQUIRE(agent_ports.size() >= 2);
  auto head_ports = listening_ports(c.head_process().pid());
  REQUIRE(!head_ports.empty());

  auto load = c.start_submit(some_jobs(8, 700));
  std::mt19937 random{20240817};
  for (int round = 0; round < 40; ++round) {
    for (auto port : head_ports) {
      send_to(port, noise(random, 1 + random() % 4096));
      send_to(port, basp_like(random));
      send_to(port, "");
    }
    for (auto port : agent_ports) {
      send_to(port, noise(random, 1 + random() % 4096));
      send_to(port, frame_like(random, hflex::gpu::frame_type::hello));
      send_to(port, frame_like(random, hflex::gpu::frame_type::open));
      send_to(port, "GET / HTTP/1.1\r\nHost: hflex\r\n\r\n");
    }
  }
  check_all_finished(cluster::finish(*load), 8);
  auto after = c.submit(jobs);
  check_all_finished(after, jobs.size());
  CHECK(tokens_of(after) == tokens_of(before));
  auto end = c.until("no KV block lost", at_rest);
  CHECK(ready_instances(end) == 2);
  for (const auto* name : {"a", "b"}) CHECK(node_named(end, name)["state"] == "up");
}

TEST_CASE("headers that promise what does not come neither crash the head nor hold it up") {
  cluster c;
  auto port = c.port();
  auto load = c.start_submit(some_jobs(8, 400));
  for (unsigned operation = 0; operation < 8; ++operation) {
    for (std::uint32_t length : {0U, 1U, 0x7FFFFFFFU, 0xFFFFFFFFU}) {
      for (std::uint64_t data : {0U, 4U}) {
        send_to(port, basp_header(operation, length, data, 0, 0));
        send_to(port, basp_header(operation, length, data, 0, 3));
        send_to(port, basp_header(operation, length, data, 3, 0));
      }
    }
  }
  check_all_finished(cluster::finish(*load), 8);
  check_all_finished(c.submit(some_jobs(4, 20)), 4);
}

} // namespace hflex::test::garbage_test
