#include "actors/scheduler/scheduler_actor.hpp"
#include "actors/common/check.hpp"
#include "actors/scheduler/decision_log.hpp"
#include "actors/scheduler/demand.hpp"
#include "actors/scheduler/standing.hpp"
#include "actors/wire/convert.hpp"
#include "actors/wire/convert_scaling.hpp"
#include "actors/wire/shell.hpp"
#include <spdlog/spdlog.h>

namespace hflex::scheduler {
namespace {

namespace s = wire::schema;
using wire::msg;

class shell : public wire::effect_loop<shell, effect> {
public:
  shell(wire::scheduler_actor::pointer self, core c)
      : self_(self), core_(std::move(c)), timer_(self), demand_(wire::now(self)) {}

  template <class Event>
  void feed(const Event& event) {
    core_.on(event, wire::now(self_), queue());
    drain();
    tell_demand();
  }

  void arrived(const request_arrived& e) {
    demand_.arrived(e);
    feed(e);
  }

  void scaler(const wire::demand_actor& handle) { scaler_ = handle; }

  void cluster(const wire::duty_actor& handle) { cluster_ = handle; }

  void router(const wire::router_actor& handle) { router_ = handle; }

  void tick_now() {
    timer_.fired();
    feed(tick{});
  }

  /// A second InstanceUp of a known instance is a role flip's end.
  void instance_up(s::InstanceUp::Reader in) {
    instance_id id{in.getInstance()};
    auto role = wire::from_wire(in.getRole());
    instance_ready e;
    e.instance = id;
    e.node = node_id{in.getNode()};
    e.role = role;
    e.kv_blocks = in.getKvBlocks();
    e.block_size = in.getBlockSize();
    e.max_batched_tokens = in.getMaxBatchedTokens();
    e.max_sequences = in.getMaxSequences();
    e.weights_due = std::chrono::milliseconds{in.getWeightsDueMs()};
    KJ_REQUIRE(id.value != 0 && e.kv_blocks > 0 && e.block_size > 0 && e.max_batched_tokens > 0 && e.max_sequences > 0,
        "an instance without capacity", id.value);
    feed(e);
    feed(instance_role_changed{id, role});
  }

  void gone(instance_id id) {
    steps_.erase(id);
    feed(instance_gone{id});
  }

  /// An instance reports its steps, and in between when blocks came free: how many are new. After a role flip the
  /// count begins again.
  std::uint64_t new_steps(instance_id id, std::uint64_t steps) {
    if (core_.state().instances.count(id) == 0) return 0; // of one that is gone: not kept
    const auto before = std::exchange(steps_[id], steps);
    return steps >= before ? steps - before : steps;
  }

  // ---- moves that people ask for ----

  caf::result<msg<s::CommandAnswer>> migrate_request(request_id id, instance_id to) {
    auto key = core_.movable(id, to);
    if (!key) return answer_of(false, key.error().message);
    auto promise = self_->make_response_promise<msg<s::CommandAnswer>>();
    asked_.emplace(*key, promise); // one at most: until it is answered the request is on its way
    feed(move_wanted{*key, to});
    return promise;
  }

  void request_moved(request_key key, instance_id at, const std::string& reason) {
    answer(key, reason.empty(),
        reason.empty() ? fmt::format("{} decodes on {} now", to_string(key.id), to_string(at))
                       : fmt::format("{} stays on {}: {}", to_string(key.id), to_string(at), reason));
    feed(moved{key, at});
  }

  void request_over(const request_ended& e) {
    answer(e.key, false, fmt::format("{} ended, or began again elsewhere, before it could move", to_string(e.key.id)));
    demand_.ended(core_.state(), e);
    feed(e);
  }

  // ---- what people ask ----

  msg<s::Explanation> explain(request_id id) {
    const auto* story = core_.story(id);
    if (story == nullptr)
      return msg<s::Explanation>::make([&](s::Explanation::Builder out) {
        out.setRefused(fmt::format("{} is not remembered: it never came to the scheduler, or long ago", to_string(id)));
      });
    const auto now = wire::now(self_);
    const auto stands = core_.explain(id, now);
    return msg<s::Explanation>::make(
        [&](s::Explanation::Builder out) {
          write(out.initStory(), *story, now);
          if (stands) write(out.getStory().initStanding(), *stands, now);
        },
        64 + story->happenings.size() * 24);
  }

  void perform(dispatch& e) {
    if (spdlog::should_log(spdlog::level::debug))
      spdlog::debug("scheduler: {} -> prefill {}, decode {}: {}", to_string(e.key), to_string(e.prefill),
          to_string(e.decode), e.why.text());
    wire::tell(self_, router_, msg<s::Placed>::make([&](s::Placed::Builder out) {
      wire::write(out.initKey(), e.key);
      out.setPrefillInstance(e.prefill.value);
      out.setDecodeInstance(e.decode.value);
    }));
  }

  void perform(shed& e) {
    wire::tell(self_, router_, msg<s::Shed>::make([&](s::Shed::Builder out) {
      wire::write(out.initKey(), e.key);
      out.setReason(e.reason);
    }));
  }

  void perform(migrate& e) {
    const auto why = e.why.text();
    spdlog::debug("scheduler: move {} from {} to {}: {}", to_string(e.key), to_string(e.from), to_string(e.to), why);
    wire::tell(self_, router_, msg<s::Migrate>::make([&](s::Migrate::Builder out) {
      wire::write(out.initKey(), e.key);
      out.setFrom(e.from.value);
      out.setTo(e.to.value);
      out.setWhy(why);
    }));
  }

  void perform(wake_at& e) { timer_.at(e.when); }

  void perform(used_for& e) {
    if (cluster_)
      wire::tell(self_, cluster_, msg<s::InstanceDuty>::make([&](s::InstanceDuty::Builder out) {
        out.setInstance(e.instance.value);
        out.setDuty(wire::to_wire(e.duty));
      }));
  }

private:
  static void write(s::Story::Builder out, const request_story& story, time_point now) {
    out.setId(story.id.value);
    wire::write(out.initSlo(), story.slo);
    out.setAgeMs(to_ms(now - story.arrival));
    out.setOmitted(story.omitted);
    out.setRetries(story.happenings.back().attempt - 1);
    auto list = out.initHappenings(static_cast<unsigned>(story.happenings.size()));
    for (unsigned i = 0; i < list.size(); ++i) {
      const auto& h = story.happenings[i];
      list[i].setAfterMs(to_ms(h.at - story.arrival));
      list[i].setAttempt(h.attempt);
      list[i].setWhat(std::string{to_string(h.what)});
      list[i].setWhy(h.why.text());
      list[i].setPrefillInstance(h.prefill.value);
      list[i].setDecodeInstance(h.decode.value);
    }
  }

  static void write(s::Standing::Builder out, const standing& stands, time_point now) {
    out.setBand(stands.band);
    out.setPosition(stands.position);
    out.setOf(stands.of);
    out.setDueMs(to_ms(stands.due - now));
    out.setLatestStartKnown(stands.latest_start.has_value());
    if (stands.latest_start) out.setLatestStartMs(to_ms(*stands.latest_start - now));
    auto list = out.initObstacles(static_cast<unsigned>(stands.obstacles.size()));
    for (unsigned i = 0; i < list.size(); ++i) {
      list[i].setInstance(stands.obstacles[i].instance.value);
      list[i].setWhy(stands.obstacles[i].why);
    }
    out.setMore(stands.more);
  }

  static msg<s::CommandAnswer> answer_of(bool done, const std::string& message) {
    return msg<s::CommandAnswer>::make([&](s::CommandAnswer::Builder out) {
      out.setOk(done);
      out.setMessage(message);
    });
  }

  /// At most one report per demand_meter::every, after events only; what came in between is told by the timer.
  void tell_demand() {
    if (!scaler_) return;
    const auto now = wire::now(self_);
    if (!demand_.ready(now)) {
      if (const auto due = demand_.due()) timer_.at(*due);
      return;
    }
    auto report = demand_.take(core_.state(), now);
    report.mixed_apart = core_.mixed_apart();
    wire::tell(self_, scaler_,
        msg<s::DemandReport>::make(
            [&](s::DemandReport::Builder out) { wire::write(out, report); }, 64 + 24 * report.instances.size()));
  }

  void answer(request_key key, bool done, const std::string& message) {
    if (auto found = asked_.extract(key)) found.mapped().deliver(answer_of(done, message));
  }

  wire::scheduler_actor::pointer self_;
  core core_;
  wire::wake_timer<wire::scheduler_actor::pointer> timer_;
  demand_meter demand_;
  wire::router_actor router_;
  std::map<instance_id, std::uint64_t> steps_; ///< finished, as last reported
  wire::demand_actor scaler_;
  wire::duty_actor cluster_;
  std::map<request_key, caf::typed_response_promise<msg<s::CommandAnswer>>> asked_; ///< who waits for the end of a move
};

request_arrived read_arrival(s::RequestArrived::Reader in, time_point now) {
  request_arrived e;
  e.key = wire::read(in.getKey());
  e.arrival = wire::point_of(in.getAgeUs(), now);
  e.prompt_tokens = in.getPromptTokens();
  e.produced = in.getProduced();
  e.tokens = e.prompt_tokens + e.produced;
  e.max_output_tokens = in.getMaxOutputTokens();
  e.slo = wire::read(in.getSlo());
  e.slo_class = wire::read(in.getSloClass());
  const auto marks = in.getPrefixMarks();
  KJ_REQUIRE(marks.size() <= most_prefix_marks, "too many prefix marks", marks.size());
  e.prefix.reserve(marks.size());
  for (const auto mark : marks) e.prefix.push_back(mark);
  KJ_REQUIRE(
      e.prompt_tokens > 0 && e.tokens <= wire::max_sequence_tokens && e.max_output_tokens <= wire::max_sequence_tokens,
      "token counts out of range", e.prompt_tokens, e.produced, e.max_output_tokens);
  return e;
}

step_reported read_report(s::StepReport::Reader in, std::uint64_t new_steps) {
  step_reported e;
  e.steps = static_cast<std::uint32_t>(std::min<std::uint64_t>(new_steps, UINT32_MAX));
  e.instance = instance_id{in.getInstance()};
  e.shape = wire::read(in.getShape());
  e.elapsed = std::chrono::microseconds{std::min<std::uint64_t>(in.getElapsedUs(), 3600'000'000ULL)};
  e.running = in.getRunning();
  e.waiting = in.getWaiting();
  e.kv_blocks_free = in.getKvBlocksFree();
  e.handover_wait = std::chrono::microseconds{std::min<std::uint64_t>(in.getHandoverUs(), 3600'000'000ULL)};
  return e;
}

} // namespace

wire::scheduler_actor::behavior_type scheduler_shell(wire::scheduler_actor::pointer self, options opts) {
  wire::outlive_errors(self);
  auto made = core::make(opts);
  HFLEX_CHECK(made.has_value());
  auto sh = std::make_shared<shell>(self, std::move(*made));
  using wire::on;
  return {
      on<s::Ack, wire::router_actor>([sh](s::Ack::Reader, const wire::router_actor& router) { sh->router(router); }),
      on<s::Ack, wire::demand_actor>([sh](s::Ack::Reader, const wire::demand_actor& scaler) { sh->scaler(scaler); }),
      on<s::Ack, wire::duty_actor>([sh](s::Ack::Reader, const wire::duty_actor& cluster) { sh->cluster(cluster); }),
      on<s::RequestArrived>(
          [sh, self](s::RequestArrived::Reader in) { sh->arrived(read_arrival(in, wire::now(self))); }),
      on<s::RequestEnded>([sh](s::RequestEnded::Reader in) {
        request_ended e{wire::read(in.getKey()), std::nullopt};
        if (in.getFinished()) e.output_tokens = in.getOutputTokens();
        sh->request_over(e);
      }),
      on<s::PrefillFinished>([sh](s::PrefillFinished::Reader in) {
        sh->feed(prefill_finished{wire::read(in.getKey()), in.getCachedPromptTokens()});
      }),
      on<s::InstanceUp>([sh](s::InstanceUp::Reader in) { sh->instance_up(in); }),
      on<s::InstanceGone>([sh](s::InstanceGone::Reader in) { sh->gone(instance_id{in.getInstance()}); }),
      on<s::InstanceDraining>(
          [sh](s::InstanceDraining::Reader in) { sh->feed(instance_draining{instance_id{in.getInstance()}}); }),
      on<s::WeightsExpected>([sh](s::WeightsExpected::Reader in) {
        sh->feed(weights_expected{instance_id{in.getInstance()}, std::chrono::milliseconds{in.getDueMs()}});
      }),
      on<s::StepReport>([sh](s::StepReport::Reader in) {
        sh->feed(read_report(in, sh->new_steps(instance_id{in.getInstance()}, in.getSteps())));
      }),
      on<s::Moved>([sh](s::Moved::Reader in) {
        sh->request_moved(wire::read(in.getKey()), instance_id{in.getAt()}, wire::read(in.getReason()));
      }),
      wire::on_ask<msg<s::CommandAnswer>, s::MigrateRequest>([sh](s::MigrateRequest::Reader in) {
        return sh->migrate_request(request_id{in.getId()}, instance_id{in.getTo()});
      }),
      wire::on_ask<msg<s::Explanation>, s::ExplainRequest>(
          [sh](s::ExplainRequest::Reader in) { return sh->explain(request_id{in.getId()}); }),
      on<s::Tick>([sh](s::Tick::Reader) { sh->tick_now(); }),
  };
}

} // namespace hflex::scheduler
