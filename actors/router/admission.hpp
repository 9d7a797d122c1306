// Whether a submit can be served at all: the checks that need nothing but the request and the options. Called by the
// router's core before it accepts a job.
#pragma once
#include "actors/common/result.hpp"
#include "actors/router/router.hpp"

namespace hflex::router {

/// What an accepted submit comes to once its defaults are filled in.
struct terms {
  std::string slo_class;
  slo_targets targets{};
  std::uint32_t max_output_tokens{};
};

/// errc::reject with what was wrong and what is allowed, for the person who sent it.
result<terms> check(const submit& s, const options& opts);

} // namespace hflex::router
