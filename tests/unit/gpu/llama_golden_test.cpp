// The engine against Hugging Face transformers' own numbers (golden.json), for every instruction set of this CPU.
#include "gpu/kernels/kernels.hpp"
#include "tests/unit/gpu/engine_fixture.hpp"

namespace hflex::test::llama_golden_test {
namespace {

std::size_t best_of(const logit_row& row) {
  return static_cast<std::size_t>(std::max_element(row.begin(), row.end()) - row.begin());
}

} // namespace

TEST_CASE("f32 mode gives the reference's greedy tokens and logits", "[numbers]") {
  for (const auto isa : gpu::available_isas()) {
    auto options = engine_options(gpu::compute_type::f32);
    options.isa = std::string(isa);
    auto engine = make_engine(options);
    for (const auto& golden : golden_cases()) {
      const auto prompt = golden.at("prompt_ids").get<tokens>();
      const auto expected = golden.at("greedy_ids").get<tokens>();
      INFO(isa << ", prompt of " << prompt.size());
      const auto table = block_range(0, 64);
      const auto first = run_step(*engine, {item_of(prompt, 0, table)});
      CHECK(relative_difference(first.logits[0], golden.at("last_logits").get<logit_row>()) < 1e-3);
      CHECK(generate(*engine, prompt, expected.size(), table) == expected);
    }
  }
}

TEST_CASE("bf16 mode stays close to the reference", "[numbers]") {
  for (const auto isa : gpu::available_isas()) {
    auto options = engine_options(gpu::compute_type::bf16);
    options.isa = std::string(isa);
    auto engine = make_engine(options);
    std::size_t agreed = 0;
    std::size_t total = 0;
    for (const auto& golden : golden_cases()) {
      const auto prompt = golden.at("prompt_ids").get<tokens>();
      const auto reference = golden.at("last_logits").get<logit_row>();
      INFO(isa << ", prompt of " << prompt.size());
      const auto table = block_range(0, 64);
      const auto first = run_step(*engine, {item_of(prompt, 0, table)});
      CHECK(relative_difference(first.logits[0], reference) < 0.02);
      CHECK(best_of(first.logits[0]) == best_of(reference));
      // Teacher-forced: each position's choice given the reference's own past.
      const auto expected = golden.at("greedy_ids").get<tokens>();
      auto position = static_cast<std::uint32_t>(prompt.size());
      for (std::size_t i = 0; i + 1 < expected.size(); ++i, ++position) {
        const auto step = run_step(*engine, {item_of({expected[i]}, position, table)});
        agreed += step.sampled[0] == expected[i + 1] ? 1 : 0;
        ++total;
      }
    }
    INFO(isa << ": " << agreed << " of " << total);
    CHECK(static_cast<double>(agreed) > 0.97 * static_cast<double>(total));
  }
}

TEST_CASE("the prompt's likelihood is the reference's") {
  auto engine = make_engine(engine_options(gpu::compute_type::f32));
  for (const auto& golden : golden_cases()) {
    const auto prompt = golden.at("prompt_ids").get<tokens>();
    if (prompt.size() > 100) continue; // one step per position below
    double sum = 0.0;
    for (std::uint32_t i = 0; i + 1 < prompt.size(); ++i) {
      const auto step = run_step(*engine, {item_of({prompt[i]}, i, block_range(0, 64))});
      double total = 0.0;
      for (const float l : step.logits[0]) total += std::exp(static_cast<double>(l));
      sum += std::log(total) - static_cast<double>(step.logits[0][static_cast<std::size_t>(prompt[i + 1])]);
    }
    const double mean = sum / static_cast<double>(prompt.size() - 1);
    CHECK(mean == Approx(golden.at("prompt_nll").get<double>()).epsilon(1e-4));
  }
}

} // namespace hflex::test::llama_golden_test
