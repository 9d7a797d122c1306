// Weights that go from process to process as a descriptor.
#include "gpu/cuda_weights.hpp"
#include "tests/support/model_dir.hpp"
#include "tests/support/spin.hpp"
#include "tests/support/transport_kit.hpp"
#include <sys/mman.h>

namespace hflex::transport_weights_test {

using namespace hflex::test;

namespace {

using region_ptr = std::shared_ptr<const gpu::weight_region>;

region_ptr loaded() {
  auto region = gpu::load_weights(demo_model(), {});
  REQUIRE(region);
  return *region;
}

/// Fetches and waits.
result<region_ptr> fetch(
    gpu::transport& t, const gpu::endpoint_list& holder, const std::string& digest, duration deadline = long_lease) {
  ending done;
  auto got = std::make_shared<region_ptr>();
  t.fetch_weights(holder, digest, deadline, [got, f = done.callback()](result<region_ptr> r) {
    if (r) *got = *r;
    f({}, r ? result<void>{} : result<void>{tl::unexpected(r.error())});
  });
  const auto outcome_of_fetch = done.wait();
  REQUIRE(outcome_of_fetch);
  if (!*outcome_of_fetch) return tl::unexpected(outcome_of_fetch->error());
  return *got;
}

bool fails(const result<region_ptr>& r, errc code) {
  if (!r) UNSCOPED_INFO(r.error().message);
  return !r && r.error().code == code;
}

/// Claims to be weights and is not.
class false_region final : public gpu::weight_region {
public:
  explicit false_region(std::string digest) : digest_{std::move(digest)} {
    REQUIRE(::ftruncate(memory_.get(), 8192) == 0);
  }
  const std::string& digest() const override { return digest_; }
  std::uint64_t bytes() const override { return 8192; }
  int fd() const override { return memory_.get(); }
  std::span<const std::byte> data() const override { return {}; }

private:
  std::string digest_;
  gpu::unique_fd memory_{::memfd_create("hflex-false", MFD_CLOEXEC | MFD_ALLOW_SEALING)};
};

} // namespace

TEST_CASE("weights are fetched from a neighbour, who goes on being asked until it withdraws them") {
  const auto region = loaded();
  auto holder = started({});
  auto fetcher = started({});
  CHECK(fails(fetch(*fetcher, holder->endpoints(), region->digest()), errc::reroute)); // not offered yet
  holder->offer_weights(region);
  const std::size_t descriptors = open_descriptors();
  {
    const auto got = fetch(*fetcher, holder->endpoints(), region->digest());
    REQUIRE(got);
    CHECK((*got)->digest() == region->digest());
    CHECK((*got)->data().data() != region->data().data());
    CHECK(std::equal((*got)->data().begin(), (*got)->data().end(), region->data().begin(), region->data().end()));
    CHECK(fails(fetch(*fetcher, holder->endpoints(), region->digest() + "0"), errc::reroute));
    const auto own = fetch(*holder, holder->endpoints(), region->digest());
    REQUIRE(own);
    CHECK(own->get() == region.get());
  }
  holder->withdraw_weights(region->digest());
  CHECK(fails(fetch(*fetcher, holder->endpoints(), region->digest()), errc::reroute));
  CHECK(spin_until([&] { return region.use_count() == 1; })); // when the thread that gave it is done, too
  CHECK(fails(fetch(*fetcher, {endpoint_of(*holder, "tcp"), "shm:another-host:x"}, "d"), errc::reroute));
  fetcher.reset();
  holder.reset();
  CHECK(open_descriptors() < descriptors);
}

TEST_CASE("weights outlive the process that packed them") {
  const std::string digest = loaded()->digest();
  child_process child{[](const child_process& parent) {
    auto t = gpu::transport::start({});
    const auto region = gpu::load_weights(demo_model(), {});
    (*t)->offer_weights(*region);
    parent.say(endpoint_of(**t, "shm"));
    parent.hear();
  }};
  auto fetcher = started({});
  const gpu::endpoint_list holder{child.hear()};
  const auto got = fetch(*fetcher, holder, digest);
  if (!got) FAIL(got.error().message);
  child.kill();
  const auto original = loaded();
  CHECK(std::equal((*got)->data().begin(), (*got)->data().end(), original->data().begin(), original->data().end()));
  CHECK(fails(fetch(*fetcher, holder, digest), errc::reroute));
}

TEST_CASE("memory of a device is passed on with its note, by key, until it is withdrawn") {
  auto holder = started({});
  auto fetcher = started({});
  const auto fetch_memory = [&](const std::string& key) {
    ending done;
    auto got = std::make_shared<gpu::shared_device_memory>();
    fetcher->fetch_device_weights(
        holder->endpoints(), key, long_lease, [got, f = done.callback()](const result<gpu::shared_device_memory>& r) {
          if (r) *got = *r;
          f({}, r ? result<void>{} : result<void>{tl::unexpected(r.error())});
        });
    const auto outcome = done.wait();
    REQUIRE(outcome);
    return std::pair{*outcome, *got};
  };
  CHECK(fetch_memory("k").first.error().code == errc::reroute);
  const std::vector<std::byte> note(gpu::max_note_bytes, std::byte{7});
  const auto memory = [] {
    auto fd = std::make_shared<gpu::unique_fd>(::memfd_create("hflex-device", MFD_CLOEXEC));
    REQUIRE(::write(fd->get(), "weights", 7) == 7);
    return fd;
  };
  const auto offered = holder->offer_device_weights("k", {note, memory()});
  const auto [ok, got] = fetch_memory("k");
  REQUIRE(ok);
  CHECK(got.note == note);
  std::array<char, 8> text{};
  CHECK(::pread(got.fd->get(), text.data(), text.size(), 0) == 7);
  CHECK(std::string{text.data()} == "weights");
  holder->offer_device_weights("empty", {{}, memory()});
  CHECK(fetch_memory("empty").first.has_value());
  CHECK(fails(fetch(*fetcher, holder->endpoints(), "k"), errc::reroute)); // a region is something else
  const auto anew = holder->offer_device_weights("k", {{}, memory()});
  holder->withdraw_device_weights(offered); // which is not the later one
  CHECK(fetch_memory("k").second.note.empty());
  holder->withdraw_device_weights(anew);
  CHECK(fetch_memory("k").first.error().code == errc::reroute);
  holder->offer_device_weights("k", {std::vector<std::byte>(gpu::max_note_bytes + 1), memory()});
  CHECK(fetch_memory("k").first.error().code == errc::reroute); // nobody could read that
}

TEST_CASE("a neighbour that hangs is asked once for device memory, not for each device") {
  child_process child{[](const child_process& parent) {
    auto holder = gpu::transport::start({});
    parent.say(endpoint_of(**holder, "shm"));
    parent.hear();
  }};
  const gpu::endpoint_list holder{child.hear()};
  child.stop();
  const auto sharing = gpu::sharing_over(started({}), {holder, {}});
  CHECK_FALSE(sharing.fetch("device 0")); // waits out its patience, of a second
  const auto begin = std::chrono::steady_clock::now();
  for (int device = 1; device < 8; ++device) CHECK_FALSE(sharing.fetch("device " + std::to_string(device)));
  CHECK(std::chrono::steady_clock::now() - begin < std::chrono::seconds{1});
}

TEST_CASE("a holder that passes something else than those weights is found out") {
  auto holder = started({});
  auto fetcher = started({});
  holder->offer_weights(std::make_shared<false_region>("0123"));
  CHECK(fails(fetch(*fetcher, holder->endpoints(), "0123"), errc::reject));
}

TEST_CASE("a holder that hangs costs a fetcher its deadline only") {
  child_process child{[](const child_process& parent) {
    auto t = gpu::transport::start({});
    parent.say(endpoint_of(**t, "shm"));
    parent.hear();
  }};
  auto fetcher = started({});
  const gpu::endpoint_list holder{child.hear()};
  child.stop();
  CHECK(fails(fetch(*fetcher, holder, "d", std::chrono::milliseconds{100}), errc::retry));
  ending open;
  fetcher->fetch_weights(holder, "d", long_lease,
      [f = open.callback()](const result<region_ptr>& r) { f({}, tl::unexpected(r.error())); });
  fetcher.reset();
  CHECK(open.failed(errc::reroute));
}

} // namespace hflex::transport_weights_test
