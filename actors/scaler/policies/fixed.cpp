// fixed: the configured fleet, no more and no less.
#include "actors/scaler/policy.hpp"

namespace hflex::scaler {

namespace {

class fixed final : public policy {
public:
  role_counts wanted(const fleet_view& v, time_point) override { return v.configured; }
};

} // namespace

std::unique_ptr<policy> make_fixed(const options&) { return std::make_unique<fixed>(); }

} // namespace hflex::scaler
