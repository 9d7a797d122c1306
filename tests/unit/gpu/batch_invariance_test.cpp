// Hard promise: a token's logits are the same bits however its prompt was chunked, whatever else was in the batch,
// wherever its blocks lie, and for any number of threads. Retries and hand-overs between instances are token-exact
// because of it.
#include "tests/unit/gpu/engine_fixture.hpp"

namespace hflex::test::batch_invariance_test {
namespace {

struct sequence {
  tokens ids;
  std::vector<gpu::block_index> table;
  std::uint32_t computed{};
  std::vector<logit_row> logits; ///< of the last position of every chunk, by position (empty where none ended)
};

tokens random_tokens(std::size_t count, std::mt19937& random) {
  std::uniform_int_distribution<token_id> any(0, 2047);
  tokens ids(count);
  for (auto& id : ids) id = any(random);
  return ids;
}

/// Logits after every position, one token at a time, alone, one thread: the decode path as the reference.
std::vector<logit_row> decode_alone(gpu::compute_type compute, const std::string& isa, const tokens& ids) {
  auto options = engine_options(compute, 1);
  options.isa = isa;
  auto engine = make_engine(options);
  std::vector<logit_row> rows;
  for (std::uint32_t i = 0; i < ids.size(); ++i)
    rows.push_back(run_step(*engine, {item_of({ids[i]}, i, block_range(0, 64))}).logits[0]);
  return rows;
}

/// Gives every sequence blocks from one shuffled pool, the way a long-running instance would.
void scatter_blocks(std::vector<sequence>& sequences, const gpu::kv_geometry& kv, std::mt19937& random) {
  auto free_blocks = block_range(0, kv.blocks);
  std::shuffle(free_blocks.begin(), free_blocks.end(), random);
  for (auto& s : sequences) {
    const std::size_t count = (s.ids.size() + kv.block_size - 1) / kv.block_size;
    s.table.assign(free_blocks.end() - static_cast<std::ptrdiff_t>(count), free_blocks.end());
    free_blocks.resize(free_blocks.size() - count);
  }
}

/// Runs all sequences to their end in random batches of random chunks.
void run_randomly(gpu::llama& engine, std::vector<sequence>& sequences, std::mt19937& random) {
  const auto pick = [&](std::size_t low, std::size_t high) {
    return std::uniform_int_distribution<std::size_t>(low, high)(random);
  };
  for (;;) {
    std::vector<std::size_t> chosen;
    std::vector<gpu::step_item> items;
    for (std::size_t s = 0; s < sequences.size(); ++s) {
      auto& seq = sequences[s];
      const std::size_t left = seq.ids.size() - seq.computed;
      if (left == 0 || pick(0, 3) == 0) continue;
      const std::size_t count = std::min(left, pick(0, 1) == 0 ? pick(1, 3) : pick(1, 90));
      const auto begin = seq.ids.begin() + seq.computed;
      items.push_back(item_of(tokens(begin, begin + static_cast<std::ptrdiff_t>(count)), seq.computed, seq.table));
      items.back().sample = pick(0, 4) != 0;
      chosen.push_back(s);
    }
    if (items.empty()) {
      const bool done =
          std::all_of(sequences.begin(), sequences.end(), [](const sequence& s) { return s.computed == s.ids.size(); });
      if (done) return;
      continue;
    }
    auto copies = items;
    auto out = run_step(engine, std::move(items));
    for (std::size_t i = 0; i < chosen.size(); ++i) {
      auto& seq = sequences[chosen[i]];
      seq.computed += static_cast<std::uint32_t>(copies[i].tokens.size());
      seq.logits[seq.computed - 1] = std::move(out.logits[i]);
    }
  }
}

} // namespace

TEST_CASE("logits are bit for bit the same in any batch, chunking, block order and thread count") {
  struct mode {
    gpu::compute_type compute;
    std::string isa;
  };
  std::vector<mode> modes;
  for (const auto isa : gpu::available_isas()) {
    modes.push_back({gpu::compute_type::bf16, std::string(isa)});
    if (isa != "avx512_bf16") modes.push_back({gpu::compute_type::f32, std::string(isa)}); // f32 there is avx512's
  }
#ifdef __SANITIZE_THREAD__ // the kernels of one width share threads and memory as those of any other do
  modes.erase(modes.begin() + 2, modes.end());
#endif
  std::mt19937 random(20240607);
  std::vector<tokens> prompts;
  for (const std::size_t length : {1U, 17U, 64U, 65U, 150U}) prompts.push_back(random_tokens(length, random));
  for (const auto& m : modes) {
    std::vector<std::vector<logit_row>> expected;
    for (const auto& p : prompts) expected.push_back(decode_alone(m.compute, m.isa, p));
    for (const std::uint32_t threads : {1U, 2U, 3U}) {
      auto options = engine_options(m.compute, threads);
      options.isa = m.isa;
      options.block_size = std::vector<std::uint32_t>{16, 48, 64}[threads - 1];
      auto engine = make_engine(options);
      for (int round = 0; round < 2; ++round) {
        INFO(m.isa << " bf16 " << (m.compute == gpu::compute_type::bf16) << " threads " << threads << " round "
                   << round);
        std::vector<sequence> sequences;
        for (const auto& p : prompts) sequences.push_back({p, {}, 0, std::vector<logit_row>(p.size())});
        scatter_blocks(sequences, engine->kv().geometry(), random);
        run_randomly(*engine, sequences, random);
        for (std::size_t s = 0; s < sequences.size(); ++s)
          for (std::size_t i = 0; i < sequences[s].ids.size(); ++i)
            if (!sequences[s].logits[i].empty()) REQUIRE(sequences[s].logits[i] == expected[s][i]);
      }
    }
  }
}

TEST_CASE("a prompt longer than the MLP's row blocks is the same in one step as in many") {
  std::mt19937 random(5);
  const auto prompt = random_tokens(700, random);
  auto engine = make_engine(engine_options(gpu::compute_type::bf16));
  const auto whole = run_step(*engine, {item_of(prompt, 0, block_range(0, 64))});
  for (std::uint32_t begin = 0; begin < prompt.size();) {
    const auto count = std::min<std::uint32_t>(97, static_cast<std::uint32_t>(prompt.size()) - begin);
    const tokens part(prompt.begin() + begin, prompt.begin() + begin + count);
    const auto out = run_step(*engine, {item_of(part, begin, block_range(100, 64))});
    begin += count;
    if (begin == prompt.size()) CHECK(out.logits[0] == whole.logits[0]);
  }
}

TEST_CASE("sequences share the blocks of a common prefix") {
  std::mt19937 random(6);
  const auto prefix = random_tokens(32, random);
  auto engine = make_engine(engine_options(gpu::compute_type::bf16));
  auto alone = prefix;
  alone.push_back(7);
  const auto expected = run_step(*engine, {item_of(alone, 0, block_range(50, 3))});
  run_step(*engine, {item_of(prefix, 0, block_range(0, 2))});
  const auto shared = run_step(*engine, {item_of({7}, 32, {0, 1, 2}), item_of({9}, 32, {0, 1, 3})});
  CHECK(shared.logits[0] == expected.logits[0]);
  CHECK(shared.logits[1] != expected.logits[0]);
}

TEST_CASE("more rows than logits are kept at a time are all sampled") {
  auto engine = make_engine(engine_options(gpu::compute_type::bf16));
  std::vector<gpu::step_item> items;
  for (std::uint32_t i = 0; i < 75; ++i)
    items.push_back(item_of({static_cast<token_id>(i), static_cast<token_id>(3 * i)}, 0, {i}));
  const auto together = run_step(*engine, items);
  for (std::uint32_t i = 0; i < 75; ++i) {
    const auto alone = run_step(*engine, {items[i]});
    CHECK(together.sampled[i] == alone.sampled[0]);
    CHECK(together.logits[i] == alone.logits[0]);
  }
}

TEST_CASE("one seed gives one continuation, in any batch") {
  sampling_params sampling;
  sampling.temperature = 0.9F;
  sampling.top_p = 0.95F;
  sampling.top_k = 50;
  sampling.seed = 42;
  const tokens prompt{0, 500, 17, 9};
  auto alone_engine = make_engine(engine_options(gpu::compute_type::bf16, 1));
  const auto alone = generate(*alone_engine, prompt, 24, block_range(0, 4), sampling);
  CHECK(alone != generate(*alone_engine, prompt, 24, block_range(0, 4)));
  // The same request beside three others, one of them its twin with another seed.
  auto engine = make_engine(engine_options(gpu::compute_type::bf16, 3));
  std::vector<tokens> next{{5, 6, 7}, prompt, prompt, {1000}};
  std::vector<tokens> produced(next.size());
  std::vector<std::uint32_t> position(next.size(), 0);
  for (std::uint32_t index = 0; index < 24; ++index) {
    std::vector<gpu::step_item> items;
    for (std::uint32_t i = 0; i < next.size(); ++i) {
      items.push_back(item_of(next[i], position[i], block_range(10 * i, 4), index));
      items.back().sampling = sampling;
      items.back().sampling.seed = i == 2 ? 43 : 42;
      position[i] += static_cast<std::uint32_t>(next[i].size());
    }
    const auto out = run_step(*engine, std::move(items));
    for (std::size_t i = 0; i < next.size(); ++i) {
      produced[i].push_back(out.sampled[i]);
      next[i] = {out.sampled[i]};
    }
  }
  CHECK(produced[1] == alone);
  CHECK(produced[2] != alone);
}

} // namespace hflex::test::batch_invariance_test
