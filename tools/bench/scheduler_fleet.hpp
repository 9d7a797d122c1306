// Clients and instances around a scheduler core, in virtual time, for `hflex bench scheduler`: requests of several SLO
// classes arrive, instances run steps of prefill chunks and decodes, report them, and requests end. As little work of
// its own as will give the core a realistic history; tools/sim is the simulator. One thread; deterministic by seed, but
// for where a measurement stops.
#pragma once
#include "actors/scheduler/scheduler.hpp"
#include "actors/scheduler/view.hpp"
#include "tools/sim/event_queue.hpp"
#include "tools/sim/random.hpp"
#include <deque>
#include <functional>
#include <queue>

namespace hflex::bench {

class scheduler_fleet {
public:
  /// What the core is told, and what came of it.
  struct told {
    enum class kind : std::uint8_t { arrival, step_report, first_token, end, tick, other } what{};
    std::size_t waited{}; ///< requests that waited before
    std::uint32_t dispatched{};
    std::uint32_t shed{};
    std::chrono::nanoseconds took{};
  };

  scheduler_fleet(scheduler::core core, std::uint32_t instances, bool disaggregated, std::uint64_t seed);

  /// Requests per second that arrive from now on, at random; 0: none.
  void set_rate(double per_s);
  /// Keeps so many waiting from now on: one arrives whenever fewer wait. The first ones come while nobody is served.
  void keep_queued(std::uint32_t requests);
  /// Lets the next thing happen. Calls `on_told` after each event that the core was told of.
  void step() { events_.step(); }

  std::function<void(const told&)> on_told;
  time_point now() const { return events_.now(); }
  const scheduler::view& state() const { return core_.state(); }

private:
  struct sequence {
    instance_id decode;
    std::uint32_t tokens{}; ///< prompt
    std::uint32_t prefill_left{};
    std::uint32_t output{};
  };
  struct end_at {
    std::uint64_t step{}; ///< of the instance: its last token comes then
    std::uint64_t id{};
    friend bool operator>(const end_at& a, const end_at& b) { return a.step != b.step ? a.step > b.step : a.id > b.id; }
  };
  struct instance {
    scheduler::instance_ready is;
    std::deque<std::uint64_t> prefilling; ///< requests, in the order of dispatch
    std::priority_queue<end_at, std::vector<end_at>, std::greater<>> decoding;
    std::uint64_t context{}; ///< of those that decode
    std::uint64_t steps{};
    step_shape shape; ///< of the step under way
    bool busy{false};
  };

  template <class Event>
  void tell(told::kind what, const Event& e);
  void perform(const scheduler::dispatch& e);
  void perform(const scheduler::shed&) {}
  void perform(const scheduler::migrate& e);
  void perform(const scheduler::wake_at& e);
  static void perform(const scheduler::used_for&) {}
  void arrive();
  void next_arrival(std::uint64_t stream);
  void top_up();
  void start_step(instance& i);
  void finish_step(std::size_t index, duration took);
  void join_decodes(instance& i, std::uint64_t id);
  std::uint32_t length(std::uint32_t median, double spread);
  sequence& of(std::uint64_t id) { return sequences_[id - 1]; }
  instance& at(instance_id id) { return instances_[id.value - 1]; }

  scheduler::core core_;
  sim::event_queue events_;
  sim::random_source random_;
  std::vector<scheduler::effect> effects_;
  std::vector<instance> instances_;
  std::vector<sequence> sequences_; ///< by id, the ended ones too
  double rate_{};
  std::uint64_t stream_{}; ///< which set_rate the arrivals under way belong to
  std::uint32_t kept_queued_{};
};

} // namespace hflex::bench
