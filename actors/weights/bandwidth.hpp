// How fast a node may give its weights away while its instances serve: all it can when their requests have time to
// spare, next to nothing when one of them is about to be late. Called by the node agent's shell with what its instances
// tell; pure.
//
//   cap = link * clamp((slack - tight) / (comfortable - tight), floor, 1), slack being the least of all residents' as a
//   share of their time per token; in eighths, so that small changes change nothing.
#pragma once
#include "actors/common/ids.hpp"
#include <cstdint>
#include <map>
#include <optional>

namespace hflex::weights {

struct bandwidth_options {
  std::uint64_t link_bytes_per_s{0};            ///< what may be given at most, 0 = no limit
  std::uint64_t assumed_bytes_per_s{1U << 30U}; ///< what a link without a limit is taken for once it has to be shared
  double comfortable{1.0};                      ///< slack from which on nothing is held back
  double tight{0.1};                            ///< slack at which only the floor is given
  double floor{0.0625};                         ///< share of the link that newcomers always get: they are to relieve us
};

class bandwidth_cap {
public:
  explicit bandwidth_cap(bandwidth_options o) : opts_(o) {}

  /// Least slack of the instance's residents, as a share of their time per token; infinite without any.
  void slack(instance_id instance, double share);
  void gone(instance_id instance);
  /// Bytes a second, 0 = no limit.
  std::uint64_t value() const;

private:
  bandwidth_options opts_;
  std::map<instance_id, double> slack_;
};

} // namespace hflex::weights
