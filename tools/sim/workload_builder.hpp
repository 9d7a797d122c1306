// Several sources of requests -> one workload: merged by arrival, each request with its SLO class. Called by
// `hflex simulate`, benches and tests.
//
// Sources stand with commas between; key=value parts belong to the source before them:
//   conv.csv.gz@chat,from=600,duration=300,code.csv.gz@code,synthetic:poisson,rate=2,duration=300,prompt=512,output=64
//   FILE[@CLASS]                 a trace (trace_reader.hpp), with
//     from=S                     leave out what arrives before; the rest begins at 0
//     duration=S                 leave out what arrives later than this after `from`
//     session_rate=R             the file's arrivals count from the start of each session: sessions start as a Poisson
//                                process with R per second, in random order, over again (as others, sharing nothing)
//                                when all have been used; without duration each starts once
//     max_tokens=N               leave out requests of more tokens, prompt and answer together (a model's context)
//     block=N                    tokens per prefix block id, a power of two, when it is not what the reader takes it
//     for
//   synthetic:DESCRIPTION[@CLASS]  made-up requests (generator.hpp)
#pragma once
#include "actors/common/result.hpp"
#include "tools/sim/workload.hpp"
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace hflex::sim {

struct workload_options {
  std::vector<slo_class> classes; ///< that requests may have; at least one
  /// Of requests that nothing else says one for. Empty = there must be none, unless there is but one class.
  std::string default_class;
  /// Shares of classes among the requests that neither their source nor their row says one for:
  /// "interactive:0.3,standard:0.5,batch:0.2". Empty = default_class.
  std::string mix;
  double rate_scale{1};           ///< > 0: every time between arrivals is divided by it
  std::optional<duration> length; ///< what arrives later, after scaling, is left out
  std::uint64_t seed{1};
};

/// A request's class is its source's (@CLASS), else its row's (slo_class), else drawn from the mix, else the default.
/// Prefix block ids of different sources never meet. errc::reject names the source, the line, and the nearest known
/// word. Blocks on the disk.
result<workload> build_workload(std::string_view sources, const workload_options& options);

/// The classes of a file (config::load_slo_classes); those built in when `file` is empty.
result<std::vector<slo_class>> read_classes(const std::string& file);

} // namespace hflex::sim
