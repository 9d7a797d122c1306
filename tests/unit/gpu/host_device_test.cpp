// The device interface on the CPU: queueing, completion, rejection, KV copies between contexts.
#include "gpu/host_device.hpp"
#include "tests/support/spin.hpp"
#include "tests/unit/gpu/engine_fixture.hpp"
#include <condition_variable>
#include <future>
#include <mutex>
#include <set>
#include <thread>

namespace hflex::test::host_device_test {
namespace {

using namespace hflex::gpu;

std::shared_ptr<device_context> make_context(const host_context_options& options) {
  auto made = make_host_context(demo_weights(), options);
  if (!made) FAIL(made.error().message);
  return *made;
}

std::shared_ptr<device_context> make_context() { return make_context(engine_options(compute_type::bf16)); }

step_result run_step(device_context& context, step_plan plan) {
  std::promise<step_result> promise;
  context.submit(std::move(plan), [&](step_result r) { promise.set_value(std::move(r)); });
  return promise.get_future().get();
}

step_plan plan_of(std::vector<step_item> items) {
  step_plan plan;
  plan.id = 77;
  plan.items = std::move(items);
  return plan;
}

tokens continue_greedy(device_context& context, tokens last, std::uint32_t position, std::size_t count,
    const std::vector<block_index>& table) {
  tokens out;
  while (out.size() < count) {
    const auto size = static_cast<std::uint32_t>(last.size());
    const auto result = run_step(context, plan_of({item_of(last, position, table)}));
    REQUIRE(result.status.has_value());
    position += size;
    out.push_back(result.sampled[0]);
    last = {out.back()};
  }
  return out;
}

/// A callback that blocks the worker until it is let go: makes "pending" a state a test can hold.
struct gate {
  std::promise<void> entered, release;
  std::shared_future<void> released{release.get_future().share()};
  layer_callback callback() {
    return [this, first = true](std::uint64_t, std::uint32_t) mutable {
      if (std::exchange(first, false)) {
        entered.set_value();
        released.wait();
      }
    };
  }
};

step_plan gated_plan(gate& g) {
  auto plan = plan_of({item_of({1}, 0, {0})});
  plan.items[0].wants_layers = true;
  plan.on_layer = g.callback();
  return plan;
}

const tokens prompt{0, 1924, 736, 363, 15, 1216, 475, 483, 357, 1193, 274, 372, 514, 662, 13};

} // namespace

TEST_CASE("a context says what it is") {
  auto options = engine_options(compute_type::bf16, 1);
  const auto context = make_context(options);
  CHECK(context->info().kind == "cpu");
  CHECK_FALSE(context->info().name.empty());
  CHECK(context->info().isa == available_isas().front());
  CHECK(context->info().threads == 1);
  CHECK(context->kv().layers == 6);
  CHECK(context->kv().kv_heads == 2);
  CHECK(context->kv().head_dim == 32);
  CHECK(context->kv().element == compute_type::bf16);
  CHECK(context->kv().blocks == 256);
  CHECK(context->max_context() == 1024);
  CHECK(context->vocab_size() == 2048);
  CHECK(context->memory_used_bytes() > demo_weights()->bytes() + context->kv().pool_bytes());
  options.kv_blocks = 0;
  options.kv_memory_bytes = 1U << 20U;
  options.compute = compute_type::f32;
  CHECK(make_context(options)->kv().element == compute_type::f32);
  CHECK(make_context(options)->kv().blocks == (1U << 20U) / (6 * 2 * 2 * 32 * 4 * 16));
  const auto machine = host_device_info(0);
  CHECK(machine.threads >= 1);
  CHECK(machine.memory_bytes > 0);
}

TEST_CASE("impossible options are rejected") {
  const auto rejected = [](auto change) {
    auto options = engine_options(compute_type::bf16);
    change(options);
    const auto made = make_host_context(demo_weights(), options);
    return !made && made.error().code == errc::reject;
  };
  CHECK_FALSE(rejected([](auto&) {}));
  CHECK(rejected([](auto& o) { o.block_size = 0; }));
  CHECK(rejected([](auto& o) { o.block_size = 100000; }));
  CHECK(rejected([](auto& o) { o.block_size = 24; }));
  CHECK(rejected([](auto& o) { o.max_batched_tokens = 0; }));
  CHECK(rejected([](auto& o) { o.max_queued_steps = 0; }));
  CHECK(rejected([](auto& o) { o.threads = 100000; }));
  CHECK(rejected([](auto& o) { o.isa = "sse9"; }));
  CHECK(rejected([](auto& o) { o.kv_blocks = 0, o.kv_memory_bytes = 1; }));
  CHECK(rejected([](auto& o) { o.kv_blocks = UINT32_MAX, o.block_size = 4096; }));
  CHECK_FALSE(make_host_context(nullptr, {}).has_value());
}

TEST_CASE("the CPU refuses f16 in words, whatever the instruction set") {
  for (const auto isa : available_isas()) {
    auto options = engine_options(compute_type::f16);
    options.isa = isa;
    const auto made = make_host_context(demo_weights(), options);
    REQUIRE(!made);
    CHECK(made.error().code == errc::reject);
    CHECK(contains(made.error().message, "compute f16: the CPU engine computes in bf16 or f32"));
  }
}

TEST_CASE("a step completes on a device thread with its id and its time") {
  const auto context = make_context();
  std::promise<std::thread::id> ran_on;
  std::promise<step_result> promise;
  context->submit(plan_of({item_of(prompt, 0, {0}), item_of({5}, 0, {1})}), [&](step_result r) {
    ran_on.set_value(std::this_thread::get_id());
    promise.set_value(std::move(r));
  });
  const auto result = promise.get_future().get();
  CHECK(ran_on.get_future().get() != std::this_thread::get_id());
  CHECK(result.status.has_value());
  CHECK(result.id == 77);
  REQUIRE(result.sampled.size() == 2);
  CHECK(result.sampled[0] == golden_cases()[0].at("greedy_ids")[0].get<token_id>());
  CHECK(result.elapsed.count() > 0);
}

TEST_CASE("an item that does not sample gets no token") {
  const auto context = make_context();
  auto plan = plan_of({item_of(prompt, 0, {0}), item_of(prompt, 0, {1})});
  plan.items[0].sample = false;
  const auto result = run_step(*context, std::move(plan));
  CHECK(result.sampled[0] == step_result::no_token);
  CHECK(result.sampled[1] != step_result::no_token);
}

TEST_CASE("layers are reported in order, to the items that asked") {
  const auto context = make_context();
  auto plan = plan_of({item_of(prompt, 0, {0}), item_of({5}, 0, {1}), item_of({6}, 0, {2})});
  plan.items[0].tag = 100;
  plan.items[0].wants_layers = true;
  plan.items[2].tag = 102;
  plan.items[2].wants_layers = true;
  std::vector<std::pair<std::uint32_t, std::uint64_t>> seen;
  std::vector<std::byte> early(context->kv().token_layer_bytes());
  plan.on_layer = [&](std::uint64_t tag, std::uint32_t layer) {
    seen.emplace_back(layer, tag);
    // The layer's rows are in the pool already: this is what a KV push reads.
    if (tag == 102 && layer == 3) REQUIRE(context->read_kv(3, std::vector<block_index>{2}, 0, 1, early).has_value());
  };
  REQUIRE(run_step(*context, std::move(plan)).status.has_value());
  std::vector<std::pair<std::uint32_t, std::uint64_t>> expected;
  for (std::uint32_t layer = 0; layer < 6; ++layer)
    for (const std::uint64_t tag : {100, 102}) expected.emplace_back(layer, tag);
  CHECK(seen == expected);
  std::vector<std::byte> late(early.size());
  REQUIRE(context->read_kv(3, std::vector<block_index>{2}, 0, 1, late).has_value());
  CHECK(early == late);
}

TEST_CASE("plans that break the rules are rejected and name the item") {
  auto options = engine_options(compute_type::bf16);
  options.max_batched_tokens = 64;
  const auto context = make_context(options);
  const auto rejected = [&](std::vector<step_item> items) {
    const auto result = run_step(*context, plan_of(std::move(items)));
    CHECK(result.id == 77);
    return !result.status && result.status.error().code == errc::reject;
  };
  const auto good = item_of({1, 2}, 0, {0});
  const auto with = [&](auto change) {
    auto item = good;
    change(item);
    return std::vector<step_item>{good, item};
  };
  CHECK_FALSE(rejected({good}));
  CHECK(rejected({}));
  CHECK(rejected(with([](auto& i) { i.tokens.clear(); })));
  CHECK(rejected(with([](auto& i) { i.tokens = {2048}; })));
  CHECK(rejected(with([](auto& i) { i.tokens = {-1}; })));
  CHECK(rejected(with([](auto& i) { i.block_table.clear(); })));
  CHECK(rejected(with([](auto& i) { i.position = 15; })));
  CHECK(rejected(with([](auto& i) { i.position = UINT32_MAX; })));
  CHECK(rejected(with([](auto& i) { i.block_table = {256}; })));
  CHECK(rejected(with([](auto& i) { i.block_table = {UINT32_MAX}; })));
  CHECK(rejected(with([](auto& i) { i.position = 1023, i.block_table = block_range(0, 65); })));
  CHECK(rejected(with([](auto& i) { i.sampling.temperature = -1.0F; })));
  CHECK(rejected(with([](auto& i) { i.tokens.assign(63, 1), i.block_table = block_range(0, 4); })));
  CHECK_FALSE(rejected(with([](auto& i) { i.tokens.assign(62, 1), i.block_table = block_range(0, 4); })));
  auto bad = with([](auto& i) { i.tag = 9, i.tokens = {5000}; });
  const auto message = run_step(*context, plan_of(bad)).status.error().message;
  CHECK(contains(message, "item 1 (tag 9)"));
  CHECK(contains(message, "5000"));
}

TEST_CASE("KV moves to a context of another block size and decoding goes on with the same tokens") {
  for (const auto compute : {compute_type::f32, compute_type::bf16}) {
    auto options = engine_options(compute);
    const auto source = make_context(options);
    options.block_size = 48;
    options.threads = 1;
    const auto sink = make_context(options);
    REQUIRE(source->kv().compatible(sink->kv()));
    const std::vector<block_index> source_table{9, 3, 200};
    const std::vector<block_index> sink_table{50, 2, 31, 7, 0, 1};
    const auto first = continue_greedy(*source, prompt, 0, 1, source_table);
    const auto count = static_cast<std::uint32_t>(prompt.size());
    const auto expected = continue_greedy(*source, first, count, 20, source_table);
    const std::size_t token_bytes = source->kv().token_layer_bytes();
    for (std::uint32_t layer = 0; layer < source->kv().layers; ++layer) {
      // In two pieces that fit neither block size.
      for (const auto& [begin, size] : {std::pair{0U, 10U}, std::pair{10U, count - 10U}}) {
        std::vector<std::byte> rows(size * token_bytes);
        REQUIRE(source->read_kv(layer, source_table, begin, size, rows).has_value());
        REQUIRE(sink->write_kv(layer, sink_table, begin, size, rows).has_value());
        std::vector<std::byte> back(rows.size());
        REQUIRE(sink->read_kv(layer, sink_table, begin, size, back).has_value());
        CHECK(back == rows);
      }
    }
    CHECK(continue_greedy(*sink, first, count, 20, sink_table) == expected);
  }
}

TEST_CASE("KV copies outside the pool are rejected") {
  const auto context = make_context();
  const std::size_t row = context->kv().token_layer_bytes();
  std::vector<std::byte> buffer(4 * row);
  const auto code = [&](std::uint32_t layer, std::vector<block_index> table, std::uint32_t begin, std::uint32_t count,
                        std::size_t bytes) {
    const auto read = context->read_kv(layer, table, begin, count, std::span(buffer).first(bytes));
    const auto written = context->write_kv(layer, table, begin, count, std::span(buffer).first(bytes));
    CHECK(read.has_value() == written.has_value());
    return read ? "ok" : std::string(to_string(read.error().code));
  };
  CHECK(code(0, {0}, 12, 4, 4 * row) == "ok");
  CHECK(code(6, {0}, 0, 4, 4 * row) == "reject");
  CHECK(code(0, {0}, 13, 4, 4 * row) == "reject");
  CHECK(code(0, {256}, 0, 4, 4 * row) == "reject");
  CHECK(code(0, {0}, 0, 4, 4 * row - 1) == "reject");
  CHECK(code(0, {0}, UINT32_MAX, 4, 4 * row) == "reject");
}

TEST_CASE("a full queue answers retry") {
  auto options = engine_options(compute_type::bf16);
  options.max_queued_steps = 2;
  const auto context = make_context(options);
  gate g;
  std::promise<void> all;
  std::mutex mutex;
  std::vector<std::string> outcomes;
  const auto done = [&](const step_result& r) {
    const std::lock_guard lock(mutex);
    outcomes.emplace_back(r.status ? "ok" : to_string(r.status.error().code));
    if (outcomes.size() == 4) all.set_value();
  };
  context->submit(gated_plan(g), done);
  g.entered.get_future().wait();
  for (int i = 0; i < 3; ++i) context->submit(plan_of({item_of({1}, 0, {1})}), done);
  g.release.set_value();
  all.get_future().wait();
  CHECK(outcomes == std::vector<std::string>{"ok", "ok", "ok", "retry"});
}

TEST_CASE("pending steps complete once, with fatal, before a context is gone") {
  auto context = make_context();
  gate g;
  std::vector<std::string> outcomes; // written on the worker, read after it was joined
  const auto done = [&](const step_result& r) {
    outcomes.emplace_back(r.status ? "ok" : to_string(r.status.error().code));
  };
  context->submit(gated_plan(g), done);
  g.entered.get_future().wait();
  for (int i = 0; i < 3; ++i) context->submit(plan_of({item_of({1}, 0, {1})}), done);
  std::thread release([&] {
    test::spin_for(std::chrono::milliseconds(20)); // let the destructor get to its wait
    g.release.set_value();
  });
  context.reset();
  release.join();
  CHECK(outcomes == std::vector<std::string>{"ok", "fatal", "fatal", "fatal"});
}

TEST_CASE("a completion may drop the last reference to its context") {
  auto context = make_context();
  gate g;
  std::promise<std::vector<std::string>> finished;
  std::vector<std::string> outcomes;
  context->submit(gated_plan(g), [&](const step_result& r) {
    outcomes.emplace_back(r.status ? "ok" : "error");
    context.reset(); // completes the pending step before it returns
    finished.set_value(outcomes);
  });
  g.entered.get_future().wait();
  context->submit(plan_of({item_of({1}, 0, {1})}),
      [&](const step_result& r) { outcomes.emplace_back(r.status ? "ok" : to_string(r.status.error().code)); });
  g.release.set_value();
  CHECK(finished.get_future().get() == std::vector<std::string>{"ok", "fatal"});
}

TEST_CASE("a completion may submit the next step") {
  const auto context = make_context();
  std::promise<tokens> finished;
  tokens out;
  std::function<void(token_id, std::uint32_t)> step = [&](token_id last, std::uint32_t position) {
    context->submit(plan_of({item_of({last}, position, {0})}), [&, position](const step_result& r) {
      out.push_back(r.sampled.at(0));
      if (out.size() == 10)
        finished.set_value(out);
      else
        step(out.back(), position + 1);
    });
  };
  step(0, 0);
  CHECK(finished.get_future().get() == continue_greedy(*context, {0}, 0, 10, {1}));
}

TEST_CASE("contexts on one set of weights run side by side") {
  const auto one = make_context();
  const auto two = make_context();
  auto other = std::async(std::launch::async, [&] { return continue_greedy(*one, prompt, 0, 30, block_range(0, 3)); });
  CHECK(continue_greedy(*two, prompt, 0, 30, block_range(5, 3)) == other.get());
}

} // namespace hflex::test::host_device_test
