// Weights that go to a device while their checkpoint is still read, with a plug-in that has no device.
#include "gpu/cuda_device.hpp"
#include "gpu/model/packed_model.hpp"
#include "tests/support/fake_cuda_plugin.hpp"
#include "tests/unit/gpu/engine_fixture.hpp"
#include <condition_variable>
#include <dlfcn.h>
#include <future>

namespace hflex::test::early_upload_test {
namespace {

using namespace hflex::gpu;
using region_ptr = std::shared_ptr<const weight_region>;

constexpr std::chrono::seconds patience{20};
const std::string as_it_was_read = "host memory, while it was read";

fake_counts& counts() {
  static auto* const found = [] {
    void* library = ::dlopen(HFLEX_FAKE_CUDA_PLUGIN, RTLD_NOW | RTLD_LOCAL);
    REQUIRE(library != nullptr);
    return reinterpret_cast<fake_counts* (*)()>(::dlsym(library, "fake_cuda_counts"))();
  }();
  return *found;
}

/// An upload was wanted, and came.
bool comes(int tensors) {
  const auto end = std::chrono::steady_clock::now() + patience;
  while (counts().tensors < tensors && std::chrono::steady_clock::now() < end) std::this_thread::yield();
  return counts().tensors >= tensors;
}

/// One backend, and what its devices hold when a test begins.
struct bench {
  std::shared_ptr<cuda_backend> backend{cuda_backend::load(HFLEX_FAKE_CUDA_PLUGIN).value()};
  const int tensors_before{counts().tensors};
  const int there_before{counts().there};
  bench() { counts().most = 0; }

  int there() const { return counts().there - there_before; }
  int most() const { return counts().most - there_before; }

  /// By one thread, which calls `midway` when the first chunk is written and the last is not.
  result<region_ptr> load(const std::string& dir, const std::function<void()>& midway,
      compute_type compute = compute_type::bf16, std::uint32_t device = 0) const {
    bool called = false;
    const auto read = [&](std::uint64_t done, std::uint64_t total) {
      if (called || done == total || done < demo_first_chunk()) return;
      called = true;
      midway();
    };
    auto loaded = backend->load_weights(device, compute, dir, read, {1, {}});
    CHECK(called);
    return loaded;
  }
  region_ptr load(compute_type compute = compute_type::bf16) const {
    auto loaded = backend->load_weights(0, compute, demo_model(), {});
    REQUIRE(loaded.has_value());
    return *loaded;
  }
  region_ptr load_and_begin() const {
    const int before = counts().tensors;
    auto region = load();
    CHECK(comes(before + 1));
    CHECK(there() == 1);
    return region;
  }
  std::shared_ptr<device_context> context(const region_ptr& region, compute_type compute = compute_type::bf16) const {
    auto made = backend->make_context(0, region, engine_options(compute));
    if (!made) FAIL(made.error().message);
    return *made;
  }

private:
  static std::uint64_t demo_first_chunk() {
    static const auto layout = layout_region(packed_model(*demo_weights()).config()).value();
    return layout.chunk_offset(1) + (256U << 10U); // tensors are padded: more than a chunk may be needed for one
  }
};

token_id next_token(device_context& context, token_id token) {
  step_plan plan;
  plan.items.push_back(item_of({token}, 0, {0}));
  std::promise<step_result> done;
  context.submit(std::move(plan), [&](step_result r) { done.set_value(std::move(r)); });
  return done.get_future().get().sampled.at(0);
}

} // namespace

TEST_CASE("weights begin to go to a device before the last of them is read") {
  const bench b;
  const auto compute = GENERATE(compute_type::bf16, compute_type::f32);
  bool went = false;
  const auto region = b.load(
      demo_model(), [&] { went = comes(b.tensors_before + 1); }, compute);
  REQUIRE(region.has_value());
  CHECK(went);
  CHECK((*region)->digest() == demo_weights()->digest());
  CHECK((*region)->arrival() == nullptr); // for everybody
  auto context = b.context(*region, compute);
  CHECK(context->weights_from() == as_it_was_read);
  CHECK(counts().tensors - b.tensors_before ==
        static_cast<int>(layout_region(packed_model(**region).config())->tensors.size()));
  CHECK(next_token(*context, 5) == 6);
  CHECK(b.most() == 1);
  context.reset();
  CHECK(b.there() == 0); // although the host has its weights yet
}

TEST_CASE("nobody is given, or offered, weights that are still read") {
  const bench b;
  const auto kind = device_kind(compute_type::bf16);
  const auto digest = demo_weights()->digest();
  std::size_t offers = 0;
  device_sharing sharing;
  sharing.offer = [&](const std::string& key, const shared_device_memory&) {
    CHECK(contains(key, digest));
    ++offers;
    return [] {};
  };
  const auto region = b.load(demo_model(), [&] {
    CHECK(comes(b.tensors_before + 1));
    CHECK(b.backend->give(digest, kind, 1).error().code == errc::reroute);
  });
  CHECK(b.backend->give(digest, kind, 1).error().code == errc::reroute); // nor before they are placed
  const auto context = b.backend->make_context(0, *region, engine_options(compute_type::bf16), sharing);
  CHECK(offers == 1);
  CHECK(b.backend->give(digest, kind, 1).has_value());
}

TEST_CASE("a checkpoint that ends too early is an error by its name, leaves nothing on the device, and can be mended") {
  const bench b;
  const model_copy model;
  const auto file = model.file("model.safetensors");
  const auto bytes = slurp(file);
  const auto broken = b.load(model.path(), [&] {
    CHECK(comes(b.tensors_before + 1));
    CHECK(b.there() == 1);
    std::filesystem::resize_file(file, bytes.size() / 2);
  });
  REQUIRE_FALSE(broken.has_value());
  CHECK(broken.error().code == errc::reject);
  CHECK(contains(broken.error().message, "model.safetensors"));
  CHECK(b.there() == 0);

  model.write("model.safetensors", bytes);
  const auto mended = b.backend->load_weights(0, compute_type::bf16, model.path(), {});
  REQUIRE(mended.has_value());
  CHECK(b.context(*mended)->weights_from() == as_it_was_read);
}

TEST_CASE("two contexts that load the same weights at once have them on the device once") {
  const bench b;
  SECTION("both as they come") {
    const auto both = [&] { // without Catch's words, which belong to one thread
      auto region = b.backend->load_weights(0, compute_type::bf16, demo_model(), {}).value();
      return b.backend->make_context(0, std::move(region), engine_options(compute_type::bf16)).value();
    };
    auto one = std::async(std::launch::async, both);
    auto two = std::async(std::launch::async, both);
    const auto first = one.get();
    const auto second = two.get();
    CHECK(b.there() == 1);
    CHECK(next_token(*first, 5) == 6);
    CHECK(next_token(*second, 7) == 8);
  }
  SECTION("what is still read gives way to what is known") {
    std::shared_ptr<device_context> known;
    const auto region = b.load(demo_model(), [&] {
      CHECK(comes(b.tensors_before + 1));
      const auto other = b.load(); // one of them goes there early
      CHECK(b.there() == 1);
      known = b.context(other);
      CHECK(known->weights_from() == "host memory");
    });
    CHECK(b.context(*region)->weights_from() == "host memory");
    CHECK(b.there() == 1);
  }
  SECTION("what was read is taken by whoever needs it first") {
    const auto region = b.load();
    const auto first = b.context(demo_weights());
    CHECK(first->weights_from() == as_it_was_read);
    CHECK(b.context(region)->weights_from() == as_it_was_read);
  }
  CHECK(b.most() == 1);
}

TEST_CASE("weights that were read for nobody leave the device") {
  const bench b;
  SECTION("with the host's") {
    auto region = b.load_and_begin();
    region.reset();
  }
  SECTION("when their context is impossible") {
    const auto region = b.load_and_begin();
    auto options = engine_options(compute_type::bf16);
    options.isa = "avx2";
    CHECK(b.backend->make_context(0, region, options).error().code == errc::reject);
    CHECK(b.there() == 0);
    CHECK(b.load_and_begin()->digest() == region->digest()); // and is free for the next ones
  }
  SECTION("when the context does not fit") {
    const auto region = b.load_and_begin();
    auto options = engine_options(compute_type::bf16);
    options.kv_blocks = fake_no_memory_blocks;
    CHECK(b.backend->make_context(0, region, options).error().code == errc::fatal);
  }
  CHECK(b.there() == 0);
}

TEST_CASE("weights of another compute type are not taken for what was read, nor is it lost") {
  const bench b;
  const auto region = b.load(compute_type::f16);
  CHECK(b.context(region, compute_type::bf16)->weights_from() == "host memory");
  CHECK(b.context(region, compute_type::f16)->weights_from() == as_it_was_read);
}

} // namespace hflex::test::early_upload_test
