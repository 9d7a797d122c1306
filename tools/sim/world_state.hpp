// The inside of world.cpp: who is there and what is on its way. world.cpp has clients and head, world_instances.cpp the
// instances with their devices and links.
#pragma once
#include "actors/instance/batcher.hpp"
#include "actors/router/router.hpp"
#include "actors/scaler/scaler.hpp"
#include "actors/scheduler/demand.hpp"
#include "tools/sim/event_queue.hpp"
#include "tools/sim/network.hpp"
#include "tools/sim/random.hpp"
#include "tools/sim/world.hpp"
#include <memory>
#include <set>
#include <unordered_map>

namespace hflex::sim {

inline constexpr std::uint32_t no_limit = 1U << 24U; ///< of queues: everything is counted here
inline constexpr token_id end_of_text = 0;

class world {
public:
  world(const cluster& hardware, const workload& load, const run_options& options, scheduler::core scheduler,
      scaler::core scaler, std::vector<fleet_group> fleet);
  hflex::result<run_result> run();

private:
  using messages = std::vector<instance::effect>;

  /// A request of the workload, as its client sees it.
  struct client_request {
    std::uint32_t attempt{};  ///< whose tokens count
    instance_id speaker;      ///< last instance that produced a token
    std::uint32_t told{};     ///< output tokens that the router knows of
    bool first_told{};        ///< of this attempt
    std::uint32_t produced{}; ///< output tokens so far, an end-of-text token among them
    std::optional<outcome> result;
  };

  /// One incarnation of an instance's core with its device.
  struct sim_instance {
    sim_instance(instance_id id, std::uint32_t on_node, const device_profile& device, std::uint64_t seed)
        : self(id), node(on_node), noise(seed), steps(device.steps) {}
    instance_id self;
    std::uint32_t node{};
    instance_role role{};
    random_source noise;
    step_time_corrector steps;            ///< as an instance's shell has it
    std::unique_ptr<instance::core> core; ///< none while it starts or changes its role
    std::uint64_t core_serial{};          ///< what is on its way to an earlier core is not for this one
    std::uint32_t transfers{1};           ///< first serial of the next core's hand-overs
    instance::step_plan flying;
    time_point born;
    std::optional<instance_role> becomes; ///< once it has retired; none: it ends
  };

  /// KV on its way from one instance to another.
  struct transfer {
    instance_id from;
    instance_id to;
    std::uint32_t rows{};
    std::uint32_t landed{};
    std::vector<network::flow_id> flows;
  };

  // world.cpp: clients and head
  void start_fleet();
  void arrive();
  void sample_fleet();
  void report_demand();
  template <class Event>
  void tell_router(const Event& e);
  template <class Event>
  void tell_scheduler(const Event& e);
  /// From the router: in the same process, but a message like others. What the scheduler has in its mailbox by then,
  /// the report of the same step for one, it reads first.
  template <class Event>
  void post_scheduler(Event e);
  template <class Event>
  void tell_scaler(const Event& e);
  void perform(const router::accepted& e);
  void perform(const router::refused& e);
  void perform(const router::to_scheduler_arrived& e);
  void perform(const router::to_scheduler_prefill_finished& e);
  void perform(const router::to_scheduler_ended& e);
  void perform(const router::start& e);
  void perform(const router::cancel_at& e);
  void perform(const router::client_done& e);
  void perform(const router::wake_at& e);
  void perform(const router::migrate_at& e);
  void perform(const router::to_scheduler_moved& e);
  void perform(const router::cancel_result&) {}
  void perform(const router::client_tokens&) {}
  void perform(const router::wait_done&) {}
  void perform(const scheduler::dispatch& e);
  void perform(const scheduler::shed& e);
  void perform(const scheduler::migrate& e);
  void perform(const scheduler::wake_at& e);
  static void perform(const scheduler::used_for&) {} // for people who watch a live fleet
  void perform(const scaler::start_instance& e);
  void perform(const scaler::stop_instance& e);
  void perform(const scaler::change_role& e);
  void perform(const scaler::wake_at& e);
  void perform(const scaler::refuse&) {}
  void perform(const scaler::note& e);
  void flush_tokens(client_request& r, request_key key);
  std::size_t index_of(request_id id) const { return indices_[static_cast<std::size_t>(id.value - 1)]; }
  client_request& client_of(request_key key) { return clients_[index_of(key.id)]; }
  token_id token_of(request_id id, std::uint32_t index) const;
  std::vector<token_id> prompt_of(std::size_t index) const;
  std::uint32_t limit_of(std::uint32_t slo_class) const { return limits_[slo_class]; }
  run_result gather() const;
  void add_stories(std::vector<decision>& to) const;

  // world_instances.cpp
  instance::options options_of(const sim_instance& i) const;
  scheduler::instance_ready description_of(const sim_instance& i) const;
  duration start_time(std::uint32_t node);
  void make_core(sim_instance& i, instance_role role);
  void ready(instance_id id);
  void retired(sim_instance& i);
  sim_instance* find(instance_id id);
  template <class Event>
  void tell(sim_instance& i, const Event& e);
  template <class Event>
  void post(instance_id to, Event e); ///< one control message
  void step_done(instance_id id, std::uint64_t core_serial, duration took);
  void perform(sim_instance& i, instance::run_step& e);
  void perform(sim_instance& i, const instance::token& e);
  void perform(sim_instance& i, const instance::ended& e);
  void perform(sim_instance& i, const instance::handed_back& e);
  void perform(sim_instance& i, const instance::offer_kv& e);
  void perform(sim_instance& i, const instance::open_push& e);
  void perform(sim_instance& i, const instance::push_rows& e);
  void perform(sim_instance& i, const instance::commit_kv& e);
  void perform(sim_instance& i, const instance::abort_transfer& e);
  void perform(sim_instance& i, const instance::accept_offer& e);
  void perform(sim_instance& i, const instance::refuse_offer& e);
  void perform(sim_instance& i, const instance::close_transfer& e);
  void perform(sim_instance& i, const instance::take_over& e);
  void perform(sim_instance& i, const instance::migrated& e);
  void perform(sim_instance& i, const instance::migration_failed& e);
  void perform(sim_instance& i, const instance::wake_at& e);
  void perform(sim_instance& i, const instance::retired&) { retired(i); }
  void push(transfer_id id, std::uint32_t rows, time_point not_before);
  void landed(transfer_id id, std::uint32_t rows);

  const cluster& hardware_;
  const workload& load_;
  run_options options_;
  scheduler::core scheduler_;
  scaler::core scaler_;
  router::core router_;
  scheduler::demand_meter demand_;
  event_queue events_;
  network network_;
  step_policy steps_;
  bool reveal_lengths_{};
  bool shares_prefixes_{};
  std::vector<std::uint32_t> limits_; ///< longest answer that a client asks for, by class
  std::map<instance_id, sim_instance> instances_;
  std::set<std::uint32_t> cached_nodes_; ///< whose host memory has the weights: an instance ran there before
  std::unordered_map<transfer_id, transfer> transfers_;
  std::vector<client_request> clients_; ///< in the order of the workload
  std::vector<request_record> records_;
  std::vector<std::size_t> indices_; ///< into the workload, by the router's number
  std::size_t next_arrival_{};
  std::uint64_t ended_{};
  bool open_{false}; ///< the fleet stands, clients come
  bool stopped_{false};
  time_point start_;
  std::uint64_t serial_{};
  std::vector<messages> spare_messages_; ///< emptied: their memory is used again
  run_result result_;
};

template <class Event>
void world::tell_router(const Event& e) {
  std::vector<router::effect> out;
  router_.on(e, events_.now(), out);
  for (const auto& x : out) std::visit([this](const auto& y) { this->perform(y); }, x);
}

template <class Event>
void world::tell_scheduler(const Event& e) {
  std::vector<scheduler::effect> out;
  scheduler_.on(e, events_.now(), out);
  for (const auto& x : out) std::visit([this](const auto& y) { this->perform(y); }, x);
}

template <class Event>
void world::post_scheduler(Event e) {
  events_.after(duration{0}, [this, e = std::move(e)] { tell_scheduler(e); });
}

template <class Event>
void world::tell_scaler(const Event& e) {
  std::vector<scaler::effect> out;
  scaler_.on(e, events_.now(), out);
  for (const auto& x : out) std::visit([this](const auto& y) { this->perform(y); }, x);
}

} // namespace hflex::sim
