// Steps on weights that are still arriving: the same tokens as on whole ones, or an error; never a guess, never a hang.
#include "gpu/model/weight_groups.hpp"
#include "gpu/partial_weights.hpp"
#include "tests/support/transport_kit.hpp"
#include "tests/unit/gpu/engine_fixture.hpp"
#include <cstring>
#include <future>
#include <set>
#include <thread>
#include <unistd.h>

namespace hflex::test::serve_while_loading_test {
namespace {

using namespace hflex::gpu;
using region_ptr = std::shared_ptr<const weight_region>;

/// Layers of a quarter of a chunk to one and a half, and an embedding of several.
model_config shape(bool tied, std::uint32_t hidden = 256) {
  return {"LlamaForCausalLM", hidden, 4 * hidden, 5, hidden / 64, 2, 64, 16384, 512, 1e-5F, 1e4F, tied, false, 0, {}};
}

region_ptr whole_weights(bool tied, std::uint32_t hidden = 256) {
  auto made = random_weights(shape(tied, hidden), 7);
  REQUIRE(made);
  return *made;
}

/// The same weights once more, chunk by chunk as a test sends them.
class arriving {
public:
  explicit arriving(region_ptr from) : from_(std::move(from)), head_(read_region_head(from_->data()).value()) {
    auto begun = partial_weights::begin(from_->data().first(head_.layout.head_bytes), from_->digest());
    REQUIRE(begun);
    weights_ = std::move(*begun);
  }
  const region_ptr& region() const { return weights_->region(); }
  const region_layout& layout() const { return head_.layout; }
  std::vector<std::uint32_t> order() const { return arrival_order(head_.layout); }
  std::vector<chunk_range> groups() const { return weight_groups(head_.layout); }

  result<void> put(std::uint32_t chunk, std::byte damage = {}) {
    const auto bytes = from_->data().subspan(head_.layout.chunk_offset(chunk), head_.layout.chunk_size(chunk));
    auto room = weights_->room(chunk);
    REQUIRE(room);
    std::memcpy(room->data(), bytes.data(), bytes.size());
    (*room)[bytes.size() / 2] ^= damage;
    weights_->wrote(*room);
    return weights_->finish(chunk);
  }
  void put_all(const std::vector<std::uint32_t>& chunks) {
    for (const auto chunk : chunks)
      if (!weights_->has(chunk)) CHECK(put(chunk).has_value());
  }
  void put_group(std::size_t group) {
    const auto range = groups().at(group);
    for (auto chunk = range.begin; chunk < range.end; ++chunk)
      if (!weights_->has(chunk)) CHECK(put(chunk).has_value());
  }
  result<region_ptr> seal() { return weights_->seal(); }

private:
  region_ptr from_;
  region_head head_;
  std::unique_ptr<partial_weights> weights_;
};

host_context_options small_engine() {
  auto o = engine_options(compute_type::bf16, 2);
  o.kv_blocks = 16;
  o.max_batched_tokens = 64;
  return o;
}

const tokens prompt{0, 88, 308, 365, 16000, 5};

/// A step on its way in a context's worker.
struct stepping {
  stepping(device_context& context, layer_callback on_layer = {}) {
    step_plan plan;
    plan.items = {item_of(prompt, 0, {3})};
    plan.items[0].wants_layers = static_cast<bool>(on_layer);
    plan.on_layer = std::move(on_layer);
    context.submit(std::move(plan), [this](step_result r) { done.set_value(std::move(r)); });
  }
  step_result outcome() { return done.get_future().get(); }
  std::promise<step_result> done;
};

std::shared_ptr<device_context> context_on(const region_ptr& weights, host_context_options o = small_engine()) {
  auto made = make_host_context(weights, o);
  REQUIRE(made);
  return *made;
}

/// Puts a thread's work to its end, also when a check throws.
struct joined {
  std::thread thread;
  ~joined() { thread.join(); }
};

} // namespace

TEST_CASE("chunks are to arrive in the order in which a step reads them, each once") {
  for (const bool tied : {true, false})
    for (const std::uint32_t hidden : {128U, 256U, 512U}) {
      const auto layout = layout_region(shape(tied, hidden)).value();
      const auto groups = weight_groups(layout);
      const auto order = arrival_order(layout);
      CHECK(groups.size() == 7);
      CHECK(std::set<std::uint32_t>(order.begin(), order.end()).size() == layout.chunks());
      CHECK(order.size() == layout.chunks());
      // When the last chunk of a group has come, everything before it in the order is of that group or an earlier one.
      std::set<std::uint32_t> needed;
      std::size_t taken = 0;
      for (const auto& group : groups) {
        for (auto chunk = group.begin; chunk < group.end; ++chunk) needed.insert(chunk);
        while (taken < order.size() && needed.count(order[taken]) > 0) ++taken;
        CHECK(taken == needed.size());
      }
      // Every byte of a tensor is in a chunk that somebody waits for.
      const auto holds = [&](std::size_t group, const tensor_place& t) {
        return layout.chunk_offset(groups[group].begin) <= t.offset &&
               t.offset + t.bytes <= layout.head_bytes + groups[group].end * weight_chunk_bytes;
      };
      for (const auto& t : layout.tensors) {
        if (t.kind == tensor_kind::embedding)
          CHECK(holds(0, t));
        else if (t.kind == tensor_kind::final_norm || t.kind == tensor_kind::head)
          CHECK(holds(6, t));
        else
          CHECK(holds(1 + t.layer, t));
        if (tied && t.kind == tensor_kind::head) CHECK(holds(0, t));
      }
    }
}

TEST_CASE("weights that arrive during a step give the logits of whole ones bit for bit, in whatever order they come") {
  for (const bool tied : {true, false}) {
    const auto whole = whole_weights(tied);
    auto reference = llama::make(whole, small_engine()).value();
    const auto expected = run_step(*reference, {item_of(prompt, 0, {3})});
    std::mt19937 random{11};
    for (int round = 0; round < 6; ++round) {
      arriving weights{whole};
      auto order = weights.order();
      if (round == 1) std::reverse(order.begin(), order.end());
      if (round > 1) std::shuffle(order.begin(), order.end(), random);
      auto engine = llama::make(weights.region(), small_engine()).value();
      step_output found;
      {
        const joined feeder{std::thread{[&] { weights.put_all(order); }}};
        found = run_step(*engine, {item_of(prompt, 0, {3})});
      }
      CHECK(found.sampled == expected.sampled);
      CHECK(found.logits == expected.logits);
      CHECK(weights.region()->arrival()->whole());
    }
  }
}

TEST_CASE("a layer runs as soon as it is here, before the next one has come") {
  for (const bool tied : {true, false}) {
    const auto whole = whole_weights(tied, 512); // a layer is more than a chunk
    const auto expected = stepping{*context_on(whole)}.outcome();
    arriving weights{whole};
    const auto context = context_on(weights.region());
    std::vector<std::uint32_t> seen;
    weights.put_group(0);
    weights.put_group(1);
    // The next layer is sent by the report of the one before: it cannot have been waited for.
    stepping step{*context, [&](std::uint64_t, std::uint32_t layer) {
                    seen.push_back(layer);
                    if (layer < 4) CHECK_FALSE(weights.region()->arrival()->whole()); // then a norm may be left
                    weights.put_group(2 + layer);
                  }};
    const auto result = step.outcome();
    REQUIRE(result.status.has_value());
    CHECK(seen == std::vector<std::uint32_t>{0, 1, 2, 3, 4});
    CHECK(result.sampled == expected.sampled);
    CHECK(weights.region()->arrival()->whole());
  }
}

TEST_CASE("weights that are whole are not waited for, sealed or not") {
  arriving weights{whole_weights(true)};
  const auto context = context_on(weights.region());
  weights.put_all(weights.order());
  CHECK(stepping{*context}.outcome().waited == duration{0});
  REQUIRE(weights.seal().has_value());
  CHECK(stepping{*context}.outcome().waited == duration{0});
}

TEST_CASE("weights that came during steps are then sealed and good for every neighbour") {
  const auto whole = whole_weights(true);
  arriving weights{whole};
  const auto early = weights.region();
  const auto context = context_on(early);
  weights.put_all(weights.order());
  const auto sealed = weights.seal();
  REQUIRE(sealed);
  CHECK(*sealed == early); // whoever had it goes on with it
  const auto neighbour = map_weights(::dup(early->fd()), whole->digest());
  REQUIRE(neighbour);
  CHECK(std::equal(early->data().begin(), early->data().end(), whole->data().begin()));
  CHECK(stepping{*context}.outcome().sampled == stepping{*context_on(whole)}.outcome().sampled);
}

TEST_CASE("a chunk that is not what the head promises is not computed with: the right one is waited for") {
  const auto whole = whole_weights(true);
  arriving weights{whole};
  const auto context = context_on(weights.region());
  stepping step{*context};
  for (const auto chunk : weights.order()) {
    const auto wrong = weights.put(chunk, std::byte{1});
    REQUIRE_FALSE(wrong.has_value());
    CHECK(wrong.error().code == errc::reject);
    CHECK(weights.put(chunk).has_value());
  }
  const auto result = step.outcome();
  REQUIRE(result.status.has_value());
  CHECK(result.sampled == stepping{*context_on(whole)}.outcome().sampled);
}

TEST_CASE("a context that goes while its weights arrive ends its step with an error") {
  for (const std::size_t groups : {0U, 1U, 3U}) {
    arriving weights{whole_weights(false, 512)};
    auto context = context_on(weights.region());
    for (std::size_t g = 0; g < groups; ++g) weights.put_group(g);
    stepping running{*context};
    stepping queued{*context};
    context.reset(); // comes back: nobody waits for what will never come
    CHECK_FALSE(running.outcome().status.has_value());
    CHECK_FALSE(queued.outcome().status.has_value());
  }
}

TEST_CASE("a step on weights of which nothing comes any more fails, and a later one goes on when they come") {
  arriving weights{whole_weights(true)};
  auto o = small_engine();
  o.weights_patience = std::chrono::milliseconds{1};
  const auto context = context_on(weights.region(), o);
  weights.put_group(0);
  const auto result = stepping{*context}.outcome();
  REQUIRE_FALSE(result.status.has_value());
  CHECK(result.status.error().code == errc::retry);
  CHECK(contains(result.status.error().message, "no weights arrived for 0.001 s"));
  CHECK(result.waited >= o.weights_patience);
  CHECK(result.waited <= result.elapsed);
  weights.put_all(weights.order());
  CHECK(stepping{*context}.outcome().status.has_value());
}

TEST_CASE("a step runs on weights that come over TCP, from a second source when the first dies in its midst") {
  const auto whole = whole_weights(true);
  auto first = started({});
  auto second = started({});
  auto taker = started({});
  first->limit_weights(16U << 20U);
  for (auto* t : {first.get(), second.get()}) {
    t->offer_weights(whole);
    t->grant_weights(whole->digest(), 7, long_lease);
  }
  std::promise<region_ptr> begun;
  const auto pull = [&](transport& from, auto on_begun, ending& done) {
    taker->pull_weights(from.endpoints(), whole->digest(), 7, long_lease,
        {{}, on_begun, [f = done.callback()](const result<region_ptr>& r) {
           f({}, r ? result<void>{} : result<void>{tl::unexpected(r.error())});
         }});
  };
  ending one;
  pull(
      *first, [&](region_ptr r) { begun.set_value(std::move(r)); }, one);
  const auto region = begun.get_future().get();
  REQUIRE(region);
  const auto context = context_on(region);
  stepping step{*context};
  first.reset(); // it gave 16 MiB/s: not all is there
  ending two;
  std::promise<region_ptr> again;
  CHECK(one.failed(errc::reroute));
  pull(
      *second, [&](region_ptr r) { again.set_value(std::move(r)); }, two);
  CHECK(again.get_future().get() == region);
  REQUIRE(two.ok());
  const auto result = step.outcome();
  REQUIRE(result.status.has_value());
  CHECK(result.sampled == stepping{*context_on(whole)}.outcome().sampled);
}

} // namespace hflex::test::serve_while_loading_test
