#include "gpu/model/logits.hpp"
#include <algorithm>
#include <numeric>

namespace hflex::gpu {
namespace {

/// One sequence on an engine of its own.
class sequence {
public:
  explicit sequence(llama& engine) : engine_(engine), table_(engine.kv().geometry().blocks) {
    std::iota(table_.begin(), table_.end(), block_index{0});
  }

  /// Computes `tokens` at the next positions; the row of the last of them where it is wanted.
  result<logits_row> feed(std::span<const token_id> tokens, bool wanted) {
    step_plan plan;
    step_item item;
    item.tokens.assign(tokens.begin(), tokens.end());
    item.position = position_;
    item.block_table = table_;
    item.sample = wanted;
    plan.items.push_back(std::move(item));
    if (auto ok = engine_.check(plan); !ok) return pass(std::move(ok.error()));
    position_ += static_cast<std::uint32_t>(tokens.size());
    logits_row row{position_ - 1, 0, {}};
    std::vector<token_id> sampled;
    const auto ran = engine_.run(plan, sampled,
        [&](std::size_t, std::span<const float> logits) { row.logits.assign(logits.begin(), logits.end()); });
    if (!ran) return pass(ran.error());
    row.best = sampled[0];
    return row;
  }

private:
  llama& engine_;
  std::vector<block_index> table_;
  std::uint32_t position_{0};
};

constexpr std::size_t chunk = 512;

} // namespace

result<logits_answer> logits_of(llama& engine, const logits_request& request) {
  const auto& text = request.tokens;
  if (text.empty() || request.last == 0 || request.last > text.size())
    return fail(errc::reject, "logits of the last {} positions of a text of {} tokens: expected 1 to as many as it has",
        request.last, text.size());
  sequence run(engine);
  logits_answer out;
  const auto quiet = text.size() - request.last;
  for (std::size_t at = 0; at < quiet; at += chunk) {
    const auto some = std::span(text).subspan(at, std::min(chunk, quiet - at));
    if (auto row = run.feed(some, false); !row) return pass(std::move(row.error()));
  }
  const auto step = [&](token_id token) -> result<void> {
    auto row = run.feed({&token, 1}, true);
    if (!row) return pass(std::move(row.error()));
    out.rows.push_back(std::move(*row));
    return {};
  };
  for (std::size_t at = quiet; at < text.size(); ++at) {
    if (auto ok = step(text[at]); !ok) return pass(std::move(ok.error()));
  }
  while (out.continuation.size() < request.generate) {
    out.continuation.push_back(out.rows.back().best);
    if (out.continuation.size() == request.generate) break;
    if (auto ok = step(out.continuation.back()); !ok) return pass(std::move(ok.error()));
  }
  return out;
}

} // namespace hflex::gpu
