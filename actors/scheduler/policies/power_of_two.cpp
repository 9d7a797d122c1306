// power_of_two: first come, first served, at once, to the shorter queue (requests in hand) of two instances drawn at
// random. What a load balancer in front of vLLM does that wants no view of the whole fleet (M. Mitzenmacher, "The power
// of two choices in randomized load balancing", IEEE TPDS 2001). Drawn without replacement, from a generator of its own
// with a fixed seed, so that runs repeat. With P/D two prefill instances are drawn, then two decode instances. A
// baseline.
#include "actors/scheduler/policies/placing.hpp"
#include <array>

namespace hflex::scheduler {

namespace {

class power_of_two final : public policy {
public:
  static constexpr knob seed{"power_of_two.seed", 1, 0, 1e15, "of its random choices; a whole number"};
  static constexpr std::array knobs{seed};

  explicit power_of_two(const options& opts) : state_(static_cast<std::uint64_t>(seed.of(opts))) {}

  void plan(const view& v, time_point, decisions& d) override {
    for (auto it = v.first_come.begin(); it != v.first_come.end();) {
      const auto key = it->second;
      ++it; // the dispatch takes it out
      const auto& request = v.waiting.at(key).request;
      std::vector<place> places;
      each_place(v, request, [&](const place& at) { places.push_back(at); });
      if (places.empty()) return; // first come, first served: nobody overtakes
      const auto* p = shorter_of_two(places, &place::prefill);
      std::erase_if(places, [&](const place& at) { return at.prefill != p; });
      const auto* to = shorter_of_two(places, &place::decode);
      d.dispatch(key, place{p, to}.with(0, true, fmt::format("shorter of two queues: {} requests", p->outstanding)));
    }
  }

private:
  const instance_load* shorter_of_two(const std::vector<place>& places, const instance_load* place::*side) {
    std::vector<const instance_load*> choices;
    for (const auto& at : places)
      if (std::find(choices.begin(), choices.end(), at.*side) == choices.end()) choices.push_back(at.*side);
    const auto* one = take(choices);
    if (choices.empty()) return one;
    const auto* other = take(choices);
    return other->outstanding < one->outstanding ? other : one;
  }

  const instance_load* take(std::vector<const instance_load*>& choices) {
    const auto at = choices.begin() + static_cast<std::ptrdiff_t>(random() % choices.size());
    const auto* taken = *at;
    choices.erase(at);
    return taken;
  }

  // splitmix64: the same numbers on every platform.
  std::uint64_t random() {
    auto z = (state_ += 0x9e3779b97f4a7c15ULL);
    z = (z ^ (z >> 30U)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27U)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31U);
  }

  std::uint64_t state_;
};

} // namespace

std::span<const knob> power_of_two_knobs() { return power_of_two::knobs; }
std::unique_ptr<policy> make_power_of_two(const options& opts) { return std::make_unique<power_of_two>(opts); }

} // namespace hflex::scheduler
