// The program's side of the CUDA plug-in, with a plug-in that has no device.
#include "gpu/cuda_device.hpp"
#include "gpu/model/region_head.hpp"
#include "gpu/weights_arrival.hpp"
#include "tests/support/altered_region.hpp"
#include "tests/support/fake_cuda_plugin.hpp"
#include "tests/unit/gpu/engine_fixture.hpp"
#include <future>
#include <map>
#include <optional>

namespace hflex::test::cuda_device_test {
namespace {

using namespace hflex::gpu;

std::shared_ptr<cuda_backend> fake_backend() {
  auto made = cuda_backend::load(HFLEX_FAKE_CUDA_PLUGIN);
  if (!made) FAIL(made.error().message);
  return *made;
}

std::shared_ptr<device_context> fake_context() {
  auto made = fake_backend()->make_context(1, demo_weights(), engine_options(compute_type::bf16));
  if (!made) FAIL(made.error().message);
  return *made;
}

/// What stands between processes of one host: each has offers of its own and sees everybody else's.
struct host_of_processes {
  std::map<int, std::map<std::string, shared_device_memory>> offers;
  int asked{0};

  device_sharing sharing(int process) {
    return {[this, process](const std::string& key) -> std::optional<shared_device_memory> {
              ++asked;
              for (const auto& [other, there] : offers)
                if (const auto at = there.find(key); other != process && at != there.end()) return at->second;
              return std::nullopt;
            },
        [this, process](const std::string& key, shared_device_memory m) -> std::function<void()> {
          offers[process][key] = std::move(m);
          return [this, process, key] { offers[process].erase(key); };
        }};
  }
};

/// The demo model, none of whose chunks are here until it has come.
class coming_region final : public weight_region {
public:
  const std::string& digest() const override { return whole_->digest(); }
  std::uint64_t bytes() const override { return whole_->bytes(); }
  int fd() const override { return whole_->fd(); }
  std::span<const std::byte> data() const override { return whole_->data(); }
  std::shared_ptr<weights_arrival> arrival() const override { return arrival_; }
  void come() {
    for (std::uint32_t i = 0; i < chunks_; ++i) arrival_->put(i);
  }

private:
  const std::shared_ptr<const weight_region> whole_{demo_weights()};
  const std::uint32_t chunks_{read_region_head(whole_->data())->layout.chunks()};
  std::shared_ptr<weights_arrival> arrival_{std::make_shared<weights_arrival>(chunks_)};
};

/// Page-locked by now or not.
bool from_host(const std::string& way) { return way == "host memory" || way == "host memory, page-locked"; }

step_result run(device_context& context, step_plan plan) {
  std::promise<step_result> done;
  context.submit(std::move(plan), [&](step_result r) { done.set_value(std::move(r)); });
  return done.get_future().get();
}

step_plan plan_of(std::vector<step_item> items) {
  step_plan plan;
  plan.id = 3;
  plan.items = std::move(items);
  return plan;
}

} // namespace

TEST_CASE("a CUDA context says what it is and gives each item its own token") {
  const auto context = fake_context();
  CHECK(context->info().kind == "cuda");
  CHECK(context->info().name == "fake 1");
  CHECK(context->info().isa == "sm_90");
  CHECK(context->kv().element == compute_type::bf16);
  CHECK(context->memory_used_bytes() == 1234);
  auto silent = item_of({7, 8}, 0, {1});
  silent.sample = false;
  const auto out = run(*context, plan_of({item_of({5}, 0, {0}), silent, item_of({9, 20}, 3, {2})}));
  REQUIRE(out.status.has_value());
  CHECK(out.sampled == tokens{6, step_result::no_token, 21});
  CHECK(out.elapsed == std::chrono::microseconds{5});
}

TEST_CASE("layers are reported for the items that want them, before the step ends, and a callback may copy KV") {
  const auto context = fake_context();
  auto plan = plan_of({item_of({5}, 0, {0}), item_of({6}, 0, {1})});
  plan.items[1].wants_layers = true;
  plan.items[1].tag = 40;
  std::vector<std::uint32_t> layers;
  std::vector<std::byte> rows(context->kv().token_layer_bytes());
  plan.on_layer = [&](std::uint64_t tag, std::uint32_t layer) {
    CHECK(tag == 40);
    CHECK(context->read_kv(layer, block_range(1, 1), 0, 1, rows).has_value());
    layers.push_back(layer);
  };
  CHECK(run(*context, std::move(plan)).status.has_value());
  CHECK(layers == block_range(0, context->kv().layers)); // counted up
}

TEST_CASE("what fails on a CUDA device fails the step and names it, and the worker lives on") {
  const auto context = fake_context();
  const auto status_of = [&](token_id order) {
    return run(*context, plan_of({item_of({order}, 0, {0})})).status.error();
  };
  CHECK(status_of(fake_launch_fails).code == errc::fatal);
  CHECK(contains(status_of(fake_launch_fails).message, "step 3: cudaLaunchKernel: no"));
  CHECK(status_of(fake_launch_rejects).code == errc::reject);
  CHECK(contains(status_of(fake_logits_not_finite).message, "not finite"));
  CHECK(status_of(5000).code == errc::reject); // outside the vocabulary: never reaches the plug-in
  CHECK(run(*context, plan_of({item_of({1}, 0, {0})})).status.has_value());
}

TEST_CASE("a stream that fails without a signal is found and fails its step") {
  const auto context = fake_context();
  const auto out = run(*context, plan_of({item_of({fake_stream_fails}, 0, {0})}));
  CHECK(out.status.error().code == errc::fatal);
  CHECK(contains(out.status.error().message, "illegal memory access"));
}

TEST_CASE("KV rows on a CUDA device are found again under the same table") {
  const auto context = fake_context();
  const std::vector<block_index> table{4, 0, 9};
  std::vector<std::byte> rows(20 * context->kv().token_layer_bytes());
  for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<std::byte>(i * 31 % 251);
  REQUIRE(context->write_kv(2, table, 10, 20, rows).has_value());
  std::vector<std::byte> one(context->kv().token_layer_bytes());
  REQUIRE(context->read_kv(2, table, 17, 1, one).has_value());
  const std::size_t half = one.size() / 2;
  CHECK(std::equal(one.begin(), one.begin() + static_cast<std::ptrdiff_t>(half),
      rows.begin() + static_cast<std::ptrdiff_t>(7 * half)));
  CHECK(context->read_kv(2, table, 40, 20, rows).error().code == errc::reject);
  CHECK(context->write_kv(6, table, 0, 1, one).error().code == errc::reject);
}

TEST_CASE("contexts of one model and compute type share its weights on a device, and nobody else does") {
  const auto backend = fake_backend();
  const auto made = [] { return find_cuda_devices(HFLEX_FAKE_CUDA_PLUGIN)->nccl_version; };
  auto options = engine_options(compute_type::bf16);
  const int before = made();
  const auto one = backend->make_context(0, demo_weights(), options);
  const auto two = backend->make_context(0, demo_weights(), options);
  CHECK(made() == before + 1);
  const auto other_device = backend->make_context(1, demo_weights(), options);
  options.compute = compute_type::f32;
  const auto other_type = backend->make_context(0, demo_weights(), options);
  CHECK(made() == before + 2); // the other device takes a copy of the first one's
  REQUIRE(other_type.has_value());
  CHECK((*other_type)->kv().element == compute_type::f32);
  options.compute = compute_type::f16; // as wide as bf16, and still something else
  const auto half = backend->make_context(0, demo_weights(), options);
  CHECK(made() == before + 3);
  REQUIRE(half.has_value());
  CHECK((*half)->kv().element == compute_type::f16);
  CHECK((*half)->kv().token_layer_bytes() == (*one)->kv().token_layer_bytes());
  CHECK(!(*half)->kv().compatible((*one)->kv()));
}

TEST_CASE("weights go from device to device, and from process to process, rather than from the host") {
  host_of_processes host;
  const auto options = engine_options(compute_type::bf16);
  const auto holder = fake_backend();
  const auto newcomer = fake_backend(); // another process, as far as the backend knows
  auto first = holder->make_context(0, demo_weights(), options, host.sharing(0)).value();
  auto& desk = host.offers[0];
  CHECK(first->weights_from() == "host memory");
  CHECK(host.asked == 2); // about this device, then about the other
  REQUIRE(desk.size() == 1);
  CHECK(contains(desk.begin()->first, "/bf16/" + demo_weights()->digest() + "/0100"));

  SECTION("on the same device they are used where they lie, and take no memory") {
    const auto second = newcomer->make_context(0, demo_weights(), options, host.sharing(1)).value();
    CHECK(second->weights_from() == "this device");
    CHECK(second->memory_used_bytes() + 1000 == first->memory_used_bytes());
    first.reset();
    CHECK(desk.empty());
    const auto third = fake_backend()->make_context(0, demo_weights(), options, host.sharing(2)).value();
    CHECK(third->weights_from() == "this device"); // who took them gives them on
    CHECK(run(*third, plan_of({item_of({5}, 0, {0})})).sampled == tokens{6});
  }
  SECTION("on another device they are copied, from this process or from another") {
    CHECK(holder->make_context(1, demo_weights(), options).value()->weights_from() == "another device");
    CHECK(newcomer->make_context(1, demo_weights(), options, host.sharing(1)).value()->weights_from() ==
          "another device");
  }
  SECTION("they are offered as long as any context runs them") {
    const auto second = holder->make_context(0, demo_weights(), options, host.sharing(0)).value();
    first.reset();
    CHECK(desk.size() == 1);
  }
  SECTION("nobody else's weights are taken") {
    auto other = engine_options(compute_type::f16);
    CHECK(newcomer->make_context(0, demo_weights(), other, host.sharing(1)).value()->weights_from() == "host memory");
  }
  SECTION("what is not right is said, and the host's are taken") {
    SECTION("a wrong checksum") {
      desk.begin()->second.note.back() ^= std::byte{1};
      const auto second = newcomer->make_context(0, demo_weights(), options, host.sharing(1)).value();
      CHECK(second->weights_from() == "host memory (shared weights: their checksum is wrong)");
    }
    SECTION("a note of another size") {
      desk.begin()->second.note.pop_back();
      const auto second = newcomer->make_context(0, demo_weights(), options, host.sharing(1)).value();
      CHECK(second->weights_from() == "host memory (a neighbour described its weights wrongly)");
    }
    CHECK(from_host(newcomer->make_context(0, demo_weights(), options, {}).value()->weights_from()));
  }
}

TEST_CASE("weights that were uploaded once are page-locked, and the next upload comes from where they lie") {
  const auto region = load_weights(demo_model(), {}).value();
  const auto backend = fake_backend();
  auto options = engine_options(compute_type::bf16);
  CHECK(backend->make_context(0, region, options).value()->weights_from() == "host memory");
  const auto again = [&](std::uint32_t device) {
    return backend->make_context(device, region, options).value()->weights_from();
  };
  std::string from;
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds{20};
  while (from != "host memory, page-locked" && std::chrono::steady_clock::now() < end) from = again(0);
  CHECK(from == "host memory, page-locked");
  CHECK(again(1) == "host memory, page-locked"); // for all devices
  options.compute = compute_type::f32;
  CHECK(again(0) == "host memory (cudaMemcpyAsync: no)"); // copied the other way when that fails
}

TEST_CASE("where a device can lock no read-only memory, weights go through pinned buffers each time") {
  const auto backend = fake_backend();
  for (int i = 0; i < 3; ++i)
    CHECK(backend->make_context(1, demo_weights(), engine_options(compute_type::bf16)).value()->weights_from() ==
          "host memory");
}

TEST_CASE("weights that are placed anew while the old ones are being dropped stay on offer") {
  const auto options = engine_options(compute_type::bf16);
  const auto holder = fake_backend();
  transport_options shm_only;
  shm_only.enable_tcp = false;
  const std::shared_ptr<transport> near = transport::start(shm_only).value();
  const std::shared_ptr<transport> far = transport::start(shm_only).value();
  std::shared_ptr<device_context> anew;
  auto slow = sharing_over(near, {}); // between the last use of the old weights and the end of their offer ...
  slow.offer = [&](const std::string& key, shared_device_memory m) -> std::function<void()> {
    return [&, withdraw = sharing_over(near, {}).offer(key, std::move(m))] {
      anew = holder->make_context(0, demo_weights(), options, sharing_over(near, {})).value(); // ... they are wanted
      withdraw();
    };
  };
  holder->make_context(0, demo_weights(), options, slow).value().reset();
  REQUIRE(anew != nullptr);
  CHECK(from_host(anew->weights_from()));
  const auto newcomer =
      fake_backend()->make_context(0, demo_weights(), options, sharing_over(far, {near->endpoints(), {}})).value();
  CHECK(newcomer->weights_from() == "this device");
}

TEST_CASE("a device of another host is given weights with a ticket, and the host's are the way out") {
  const auto options = engine_options(compute_type::bf16);
  const auto holder = fake_backend();
  const auto newcomer = fake_backend();
  CHECK(holder->give(demo_weights()->digest(), device_kind(compute_type::bf16), 1).error().code ==
        errc::reroute); // none here
  const auto first = holder->make_context(0, demo_weights(), options).value();
  CHECK(holder->give(demo_weights()->digest(), device_kind(compute_type::f16), 1).error().code == errc::reroute);
  device_sharing sharing;
  sharing.ticket = holder->give(demo_weights()->digest(), device_kind(compute_type::bf16), 1).value().front();

  SECTION("it comes by the network") {
    const auto second = newcomer->make_context(0, demo_weights(), options, sharing).value();
    CHECK(second->weights_from() == "another host's device");
    CHECK(second->memory_used_bytes() == first->memory_used_bytes());
    CHECK(run(*second, plan_of({item_of({5}, 0, {0})})).sampled == tokens{6});
    CHECK(holder->give(demo_weights()->digest(), device_kind(compute_type::bf16), 1).has_value()); // and nobody comes
  }
  SECTION("a ticket is good once") {
    newcomer->make_context(0, demo_weights(), options, sharing).value().reset();
    const auto again = fake_backend()->make_context(0, demo_weights(), options, sharing).value();
    CHECK(again->weights_from() == "host memory (not all of the others came in time)");
  }
  SECTION("a ticket of another build is none") {
    sharing.ticket.pop_back();
    const auto second = newcomer->make_context(0, demo_weights(), options, sharing).value();
    CHECK(second->weights_from() == "host memory (the ticket of another host is of another version)");
  }
  SECTION("when it fails, a region that still comes is waited for") {
    const auto coming = std::make_shared<coming_region>();
    sharing.ticket.pop_back();
    auto made = std::async(std::launch::async,
        [&] { return newcomer->make_context(0, coming, options, sharing).value()->weights_from(); });
    CHECK(made.wait_for(std::chrono::milliseconds{20}) == std::future_status::timeout);
    coming->come();
    CHECK(made.get() == "host memory (the ticket of another host is of another version)");
  }
  SECTION("only so many are given at a time") {
    std::size_t given = 1;
    while (given < 100 && holder->give(demo_weights()->digest(), device_kind(compute_type::bf16), 1)) ++given;
    CHECK(given == 8);
  }
}

TEST_CASE("devices of several hosts are given weights at once, and when one does not come the others take the host's") {
  const auto options = engine_options(compute_type::bf16);
  auto holder = fake_backend();
  const auto first = holder->make_context(0, demo_weights(), options).value();
  const auto tickets = holder->give(demo_weights()->digest(), device_kind(compute_type::bf16), 3).value();
  REQUIRE(tickets.size() == 3);
  std::vector<std::future<std::string>> newcomers;
  const auto come = [&](std::size_t who) {
    device_sharing sharing;
    sharing.ticket = tickets[who];
    newcomers.push_back(std::async(std::launch::async, [sharing, options, weights = demo_weights()] {
      return fake_backend()->make_context(1, weights, options, sharing).value()->weights_from();
    }));
  };
  come(2);
  come(0);
  std::string from = "host memory (not all of the others came in time)";
  SECTION("all come") {
    CHECK(newcomers[0].wait_for(std::chrono::milliseconds{20}) == std::future_status::timeout);
    come(1);
    from = "another host's device";
  }
  SECTION("one does not, and the holder gives up") { holder.reset(); }
  SECTION("one does not, and the hosts' copies are here") {}
  for (auto& n : newcomers) CHECK(n.get() == from);
}

TEST_CASE("what is not finite in f16 says where f16 ends") {
  const auto backend = fake_backend();
  const auto message = [&](compute_type compute) {
    const auto context = backend->make_context(0, demo_weights(), engine_options(compute)).value();
    return run(*context, plan_of({item_of({fake_logits_not_finite}, 0, {0})})).status.error().message;
  };
  CHECK(contains(message(compute_type::f16), "not finite; f16 holds nothing beyond 65504"));
  CHECK(!contains(message(compute_type::bf16), "f16"));
}

TEST_CASE("a model with a weight beyond f16 is refused in f16 by name, and runs in bf16") {
  const auto backend = fake_backend();
  const auto weights = std::make_shared<altered_region>(*demo_weights());
  weights->put<std::uint16_t>(tensor_kind::down, 4, 17, 0x4780);
  const auto refused = backend->make_context(1, weights, engine_options(compute_type::f16));
  REQUIRE(!refused.has_value());
  CHECK(refused.error().code == errc::reject);
  CHECK(contains(refused.error().message, "CUDA device 1: layer 4, down projection"));
  CHECK(backend->make_context(1, weights, engine_options(compute_type::bf16)).has_value());
}

TEST_CASE("impossible CUDA contexts are refused with the reason") {
  const auto backend = fake_backend();
  auto options = engine_options(compute_type::bf16);
  CHECK(backend->make_context(2, demo_weights(), options).error().code == errc::reject);
  CHECK(backend->make_context(0, nullptr, options).error().code == errc::reject);
  options.isa = "avx2";
  CHECK(backend->make_context(0, demo_weights(), options).error().code == errc::reject);
  options.isa.clear();
  options.max_batched_tokens = 0;
  CHECK(backend->make_context(0, demo_weights(), options).error().code == errc::reject);
  options = engine_options(compute_type::bf16);
  options.kv_blocks = fake_no_memory_blocks;
  const auto full = backend->make_context(0, demo_weights(), options);
  CHECK(full.error().code == errc::fatal);
  CHECK(contains(full.error().message, "out of memory"));
}

} // namespace hflex::test::cuda_device_test
