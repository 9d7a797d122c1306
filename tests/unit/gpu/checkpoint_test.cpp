#include "gpu/model/checkpoint.hpp"
#include "tests/support/model_dir.hpp"

namespace hflex::checkpoint_test {

using namespace hflex::gpu;
using namespace hflex::test;

namespace {

/// What opening a directory says when it must fail.
std::string refusal(const std::string& dir) {
  const auto opened = checkpoint::open(dir);
  REQUIRE_FALSE(opened);
  CHECK(opened.error().code == errc::reject);
  return opened.error().message;
}

} // namespace

TEST_CASE("the demo model opens with all its tensors") {
  const auto model = checkpoint::open(demo_model());
  REQUIRE(model);
  CHECK(model->config().hidden == 192);
  CHECK(model->names().size() == 56);
  CHECK(model->parameters() == 2'755'008);
  CHECK(model->bytes() == 2 * 2'755'008);

  const auto embedding = model->tensor("model.embed_tokens.weight");
  REQUIRE(embedding);
  CHECK(embedding->type == dtype::bf16);
  CHECK(embedding->shape == std::vector<std::uint64_t>{2048, 192});
  CHECK(embedding->data.size() == 2048 * 192 * 2);
  const auto file = slurp(demo_model() + "/model.safetensors");
  const std::size_t begin = 8 + 6008;
  CHECK(std::string_view(reinterpret_cast<const char*>(embedding->data.data()), embedding->data.size()) ==
        std::string_view(file).substr(begin, embedding->data.size()));
}

TEST_CASE("a tensor view stays good while any copy of the checkpoint lives") {
  auto first = checkpoint::open(demo_model());
  REQUIRE(first);
  const checkpoint copy = *first;
  const auto norm = copy.tensor("model.norm.weight");
  REQUIRE(norm);
  { const checkpoint moved = std::move(*first); }
  unsigned sum = 0;
  for (const auto b : norm->data) sum += std::to_integer<unsigned>(b);
  CHECK(sum > 0);
}

TEST_CASE("a tensor that is not there is named together with its directory") {
  const auto model = checkpoint::open(demo_model());
  REQUIRE(model);
  const auto missing = model->tensor("model.layers.6.mlp.up_proj.weight");
  REQUIRE_FALSE(missing);
  check_says(missing.error().message, {"model.layers.6.mlp.up_proj.weight", "austen-2.7m"});
  CHECK_FALSE(model->contains("model.layers.6.mlp.up_proj.weight"));
}

TEST_CASE("a missing directory or file is named together with what a model directory holds") {
  check_says(refusal("/nonexistent/model"), {"/nonexistent/model: is not a directory", "config.json"});
  const temp_dir empty;
  check_says(refusal(empty.path()), {"/config.json: is missing", "/model.safetensors: is missing"});
}

} // namespace hflex::checkpoint_test
