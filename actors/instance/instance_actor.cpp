#include "actors/instance/instance_actor.hpp"
#include "actors/common/check.hpp"
#include "actors/instance/device_plan_actor.hpp"
#include "actors/instance/link_answer_actor.hpp"
#include "actors/instance/step_report_actor.hpp"
#include "actors/wire/convert.hpp"
#include "actors/wire/shell.hpp"
#include <cmath>
#include <deque>
#include <random>

namespace hflex::instance {
namespace {

namespace s = wire::schema;
using wire::msg;

class shell : public wire::effect_loop<shell, effect> {
public:
  shell(wire::instance_actor::pointer self, shell_settings settings)
      : self_(self), set_(std::move(settings)), steps_(std::make_shared<step_time_corrector>(set_.step_time)),
        core_(completed(set_, steps_)), timer_(self) {}

  ~shell() {
    // Also on a crash: blocks must not be written by a transfer whose owner is gone.
    for (const auto& [id, t] : transfers_) set_.transport->close(id, t.side);
    for (const auto& [id, peer] : peers_) set_.transport->unlink(peer.linked);
  }

  shell(const shell&) = delete;
  shell& operator=(const shell&) = delete;

  template <class Event>
  void feed(const Event& event) {
    core_.on(event, wire::now(self_), queue());
    drain();
    flush_tokens();
    show_change_of_load();
  }

  // ---- messages ----

  void step_done(s::StepDone::Reader in) {
    step_finished e;
    e.id = in.getStep();
    e.sampled = wire::read(in.getSampled());
    e.elapsed = std::chrono::microseconds{in.getElapsedUs()};
    // As this actor sees it: tokens leave, and the next step starts, when it is told, so budgets must count that in.
    if (const auto since = std::exchange(submitted_, std::nullopt))
      e.elapsed = std::max(e.elapsed, wire::now(self_) - *since);
    // Weights that come late say nothing of how long such a step takes.
    e.elapsed -= std::min<duration>(e.elapsed, std::chrono::microseconds{in.getWaitedUs()});
    if (in.getFailed()) e.status = fail(errc::fatal, "{}", wire::read(in.getMessage()));
    note_step(e.elapsed);
    feed(e);
    auto done = core_.report();
    if (e.status) steps_->observe(done.last_shape, done.last_elapsed);
    report(false);
  }

  void kv_accept(s::KvAccept::Reader in) {
    transfer_id id{in.getTransfer()};
    accepted_[id] = {in.getKey(), wire::read(in.getEndpoints())};
    feed(offer_accepted{id});
    accepted_.erase(id); // taken by open_push, or not wanted any more
  }

  void kv_moved(s::KvMoved::Reader in) {
    transfer_id id{in.getTransfer()};
    if (in.getFailed()) {
      feed(kv_failed{id, error{wire::from_wire(in.getCode()), wire::read(in.getMessage())}});
    } else if (in.getInbound()) {
      feed(kv_landed{id});
    } else {
      if (auto found = transfers_.find(id); found != transfers_.end())
        count_traffic(found->second.peer, wire::read(in.getPath()), in.getBytes());
      feed(kv_delivered{id});
    }
    report(false); // blocks came free, or a sequence came in
  }

  void peer_up(instance_id id, s::PeerUp::Reader in, const wire::kv_peer_actor& handle) {
    auto& peer = peers_[id];
    peer.handle = handle;
    set_.transport->unlink(std::exchange(peer.linked, {}));
    if (in.getSends()) {
      peer.linked = wire::read(in.getEndpoints());
      set_.transport->link(peer.linked, link_answer(set_.cluster, set_.core.self, id, in.getRound()));
    }
    watcher_.watch(self_, handle, [this, id, address = handle.address()](const std::string&) {
      // After a role flip the same id is another actor: the end of the former one says nothing about it.
      if (auto found = peers_.find(id); found != peers_.end() && found->second.handle.address() == address)
        peer_gone(id);
    });
  }

  void peer_gone(instance_id id) {
    auto gone = peers_.extract(id);
    if (gone.empty()) return;
    set_.transport->unlink(gone.mapped().linked);
    feed(peer_lost{id});
  }

  void tick_now() {
    timer_.fired();
    feed(tick{});
    report(false);
  }

  // ---- effects ----

  void perform(run_step& e) {
    submitted_ = wire::now(self_);
    set_.context->submit(device_plan(e.plan, set_.transport), [to = wire::instance_actor{self_}](gpu::step_result r) {
      wire::tell_from_outside(
          to, msg<s::StepDone>::make(
                  [&](s::StepDone::Builder out) {
                    out.setStep(r.id);
                    wire::write(out.initSampled(static_cast<unsigned>(r.sampled.size())), r.sampled);
                    out.setElapsedUs(static_cast<std::uint64_t>(std::max<std::int64_t>(r.elapsed.count(), 0)) / 1000);
                    out.setWaitedUs(static_cast<std::uint64_t>(std::max<std::int64_t>(r.waited.count(), 0)) / 1000);
                    out.setFailed(!r.status.has_value());
                    if (!r.status) out.setMessage(r.status.error().message);
                  },
                  16 + r.sampled.size() / 2));
    });
  }

  void perform(token& e) {
    auto& batch = produced_[e.key];
    batch.cached_prompt_tokens = e.cached_prompt_tokens;
    batch.tokens.push_back({e.index, e.id});
  }

  void perform(ended& e) {
    flush_tokens();
    wire::tell(self_, set_.router, msg<s::SequenceEnded>::make([&](s::SequenceEnded::Builder out) {
      wire::write(out.initKey(), e.key);
      out.setInstance(set_.core.self.value);
      out.setCause(wire::to_wire(e.cause));
      out.setCachedPromptTokens(e.cached_prompt_tokens);
      out.setOutputTokens(e.output_tokens);
    }));
  }

  void perform(migrated& e) { say_migration_ended(e.key, e.to, nullptr); }
  void perform(migration_failed& e) { say_migration_ended(e.key, e.to, &e.why); }

  void perform(handed_back& e) {
    flush_tokens();
    wire::tell(self_, set_.router, msg<s::HandedBack>::make([&](s::HandedBack::Builder out) {
      wire::write(out.initKey(), e.key);
      out.setInstance(set_.core.self.value);
      out.setCode(wire::to_wire(e.why.code));
      out.setReason(e.why.message);
      out.setLeaving(e.leaving);
    }));
  }

  void perform(offer_kv& e) {
    auto* peer = find_peer(e.to);
    if (peer == nullptr) {
      core_.on(
          offer_refused{e.transfer, error{errc::reroute, "no link to " + to_string(e.to)}}, wire::now(self_), queue());
      return;
    }
    wire::tell(self_, *peer,
        msg<s::KvOffer>::make(
            [&](s::KvOffer::Builder out) {
              out.setTransfer(e.transfer.value);
              out.setFrom(set_.core.self.value);
              wire::write(out.initSpec(), e.spec, wire::now(self_));
              out.setTokensToSend(static_cast<std::uint32_t>(e.spec.tokens.size()) + e.ahead);
              out.setLeaseMs(static_cast<std::uint32_t>(to_ms(e.lease)));
            },
            64 + e.spec.tokens.size() / 2));
    transfers_[e.transfer] = {e.to, gpu::transfer_side::source};
  }

  void perform(open_push& e) {
    const auto& to = accepted_[e.transfer];
    set_.transport->open(
        e.transfer, to.key, shape(e.tokens), set_.context, e.block_table, to.endpoints, e.lease, moved(false));
  }

  void perform(push_rows& e) {
    for (std::uint32_t layer = 0; layer < set_.context->kv().layers; ++layer)
      set_.transport->push(e.transfer, layer, e.begin, e.count);
  }

  void perform(commit_kv& e) {
    if (auto* peer = find_peer(e.to))
      wire::tell(self_, *peer, msg<s::KvCommit>::make([&](s::KvCommit::Builder out) {
        out.setTransfer(e.transfer.value);
        out.setFrom(set_.core.self.value);
        out.setFirstIndex(e.index);
        out.setToken(e.token);
        wire::write(out.initEarlier(static_cast<unsigned>(e.earlier.size())), e.earlier);
      }));
  }

  void perform(take_over& e) {
    if (auto* peer = find_peer(e.to))
      wire::tell(self_, *peer, msg<s::KvTaken>::make([&](s::KvTaken::Builder out) {
        out.setTransfer(e.transfer.value);
        out.setInstance(set_.core.self.value);
      }));
  }

  void perform(abort_transfer& e) {
    if (auto* peer = find_peer(e.to))
      wire::tell(self_, *peer, msg<s::KvAbort>::make([&](s::KvAbort::Builder out) {
        out.setTransfer(e.transfer.value);
        out.setFrom(set_.core.self.value);
      }));
  }

  void perform(accept_offer& e) {
    auto* peer = find_peer(e.from);
    if (peer == nullptr) { // its offer came, so it was there: it died since
      core_.on(
          kv_failed{e.transfer, error{errc::reroute, "no link to " + to_string(e.from)}}, wire::now(self_), queue());
      return;
    }
    auto key = random_word();
    transfers_[e.transfer] = {e.from, gpu::transfer_side::sink};
    set_.transport->expect(e.transfer, key, shape(e.tokens), set_.context, e.block_table, e.lease, moved(true));
    wire::tell(self_, *peer, msg<s::KvAccept>::make([&](s::KvAccept::Builder out) {
      out.setTransfer(e.transfer.value);
      out.setInstance(set_.core.self.value);
      out.setKey(key);
      const auto& endpoints = set_.transport->endpoints();
      wire::write(out.initEndpoints(static_cast<unsigned>(endpoints.size())), endpoints);
    }));
  }

  void perform(refuse_offer& e) {
    if (auto* peer = find_peer(e.from))
      wire::tell(self_, *peer, msg<s::KvRefuse>::make([&](s::KvRefuse::Builder out) {
        out.setTransfer(e.transfer.value);
        out.setInstance(set_.core.self.value);
        out.setCode(wire::to_wire(e.why.code));
        out.setReason(e.why.message);
        out.setLeaving(e.leaving);
      }));
  }

  void perform(close_transfer& e) {
    auto found = transfers_.find(e.transfer);
    if (found == transfers_.end()) return; // never came as far as the transport
    set_.transport->close(e.transfer, found->second.side);
    transfers_.erase(found);
  }

  void perform(wake_at& e) { timer_.at(e.at); }

  void perform(retired&) {
    flush_tokens();
    report(true);
    wire::tell(self_, set_.agent,
        msg<s::Retired>::make([&](s::Retired::Builder out) { out.setInstance(set_.core.self.value); }));
    self_->quit();
  }

private:
  struct peer_entry {
    wire::kv_peer_actor handle;
    gpu::endpoint_list linked; ///< the way there is kept open; empty: nothing is sent there
    std::uint64_t bytes_total{};
  };
  struct transfer_entry {
    instance_id peer;
    gpu::transfer_side side{};
  };
  struct way {
    std::uint64_t key{};
    gpu::endpoint_list endpoints;
  };

  struct produced_tokens {
    std::vector<std::pair<std::uint32_t, token_id>> tokens;
    std::uint32_t cached_prompt_tokens{};
  };

  static std::uint64_t random_word() {
    std::random_device random;
    return std::uint64_t{random()} << 32U | random();
  }

  static options completed(const shell_settings& set, std::shared_ptr<const step_time_corrector> steps) {
    auto core = set.core;
    const auto& kv = set.context->kv();
    core.kv_row_time = from_s(static_cast<double>(kv.layers * kv.token_layer_bytes()) / set.migration_bytes_per_s);
    core.prefix_seed = {random_word(), random_word()};
    core.predict = [steps = std::move(steps)](const step_shape& shape) { return steps->model().plan_ahead(shape); };
    return core;
  }

  gpu::kv_shape shape(std::uint32_t tokens) const {
    const auto& kv = set_.context->kv();
    return {kv.layers, tokens, kv.token_layer_bytes(), kv.element};
  }

  /// Posts a transport's completion to the own mailbox.
  gpu::transfer_callback moved(bool inbound) {
    std::weak_ptr<gpu::transport> transport = set_.transport;
    return [to = wire::instance_actor{self_}, transport, inbound](transfer_id id, result<void> r) {
      gpu::transfer_stats stats;
      if (auto t = transport.lock(); t && r && !inbound) stats = t->stats(id);
      wire::tell_from_outside(to, msg<s::KvMoved>::make([&](s::KvMoved::Builder out) {
        out.setTransfer(id.value);
        out.setInbound(inbound);
        out.setFailed(!r.has_value());
        if (!r) {
          out.setCode(wire::to_wire(r.error().code));
          out.setMessage(r.error().message);
        }
        out.setPath(stats.path);
        out.setBytes(stats.bytes_total);
      }));
    };
  }

  void say_migration_ended(request_key key, instance_id to, const error* why) {
    flush_tokens();
    wire::tell(self_, set_.router, msg<s::MigrationEnded>::make([&](s::MigrationEnded::Builder out) {
      wire::write(out.initKey(), key);
      out.setInstance(set_.core.self.value);
      out.setTo(to.value);
      out.setFailed(why != nullptr);
      if (why) out.setReason(why->message);
    }));
  }

  const wire::kv_peer_actor* find_peer(instance_id id) const {
    auto found = peers_.find(id);
    return found != peers_.end() ? &found->second.handle : nullptr;
  }

  /// One message for all tokens that one event produced: a step of 64 sequences is one message, not 64.
  void flush_tokens() {
    if (produced_.empty()) return;
    auto batch = std::exchange(produced_, {});
    wire::tell(self_, set_.router,
        msg<s::TokensProduced>::make(
            [&](s::TokensProduced::Builder out) {
              out.setInstance(set_.core.self.value);
              auto list = out.initSequences(static_cast<unsigned>(batch.size()));
              unsigned i = 0;
              for (const auto& [key, produced] : batch) {
                const auto& tokens = produced.tokens;
                auto item = list[i++];
                wire::write(item.initKey(), key);
                item.setFirstIndex(tokens.front().first);
                item.setCachedPromptTokens(produced.cached_prompt_tokens);
                auto ids = item.initTokens(static_cast<unsigned>(tokens.size()));
                for (unsigned k = 0; k < tokens.size(); ++k) ids.set(k, tokens[k].second);
              }
            },
            32 + batch.size() * 8));
  }

  void note_step(duration elapsed) {
    constexpr double weight = 0.1;
    auto ms = to_ms(elapsed);
    step_ms_mean_ = step_ms_mean_ == 0 ? ms : step_ms_mean_ + weight * (ms - step_ms_mean_);
  }

  /// Every step to the scheduler, whose budgets depend on it; now and then to the cluster.
  void report(bool always) {
    auto snap = core_.report();
    auto message = report_of(snap);
    wire::tell(self_, set_.scheduler, message);
    if (always || wire::now(self_) - last_report_ >= set_.report_every) show(message, snap);
    if (wire::now(self_) - last_sign_ >= set_.sign_every) show_signs_of_life();
    tell_slack();
  }

  /// What the node gives of its weights to other hosts depends on it. In eighths: small changes are not worth a
  /// message.
  void tell_slack() {
    const auto share = std::clamp(core_.slack_share(wire::now(self_)), -1.0, 1.0);
    if (const auto now = static_cast<int>(std::floor(share * 8)); std::exchange(told_slack_, now) == now) return;
    wire::tell(self_, set_.agent, msg<s::SourceSlack>::make([&](s::SourceSlack::Builder out) {
      out.setInstance(set_.core.self.value);
      out.setShare(share);
    }));
  }

  /// The router gives up an attempt that is silent for long; one that waits or prefills here is not dead.
  void show_signs_of_life() {
    last_sign_ = wire::now(self_);
    auto keys = core_.held();
    if (keys.empty()) return;
    wire::tell(self_, set_.router,
        msg<s::SequencesHeld>::make(
            [&](s::SequencesHeld::Builder out) {
              out.setInstance(set_.core.self.value);
              auto list = out.initKeys(static_cast<unsigned>(keys.size()));
              for (unsigned i = 0; i < keys.size(); ++i) wire::write(list[i], keys[i]);
            },
            32 + keys.size() * 2));
  }

  /// People see at once that an instance got busy or idle, whatever the cause: it may have been no step (a hand-over
  /// that was delivered, a cancelled request), and the next step may be far.
  void show_change_of_load() {
    auto snap = core_.report();
    if (is_idle(snap) != was_idle_) show(report_of(snap), snap);
  }

  void show(const msg<s::StepReport>& message, const snapshot& snap) {
    wire::tell(self_, set_.cluster, message);
    last_report_ = wire::now(self_);
    was_idle_ = is_idle(snap);
    if (was_idle_) tell_slack();
  }

  msg<s::StepReport> report_of(const snapshot& snap) const {
    return step_report(set_.core.self, snap, step_ms_mean_, static_cast<std::uint32_t>(self_->mailbox().size()));
  }

  void count_traffic(instance_id to, const std::string& path, std::uint64_t bytes) {
    auto found = peers_.find(to);
    if (found == peers_.end()) return;
    found->second.bytes_total += bytes;
    wire::tell(self_, set_.cluster, msg<s::LinkTraffic>::make([&](s::LinkTraffic::Builder out) {
      out.setFrom(set_.core.self.value);
      out.setTo(to.value);
      out.setTransport(path);
      out.setBytesTotal(found->second.bytes_total);
    }));
  }

  wire::instance_actor::pointer self_;
  shell_settings set_;
  std::shared_ptr<step_time_corrector> steps_; ///< learns from each step; the core's budgets ask it
  core core_;
  wire::wake_timer<wire::instance_actor::pointer> timer_;
  wire::watcher watcher_;
  std::map<instance_id, peer_entry> peers_;
  std::map<transfer_id, transfer_entry> transfers_; ///< open at the transport, or offered
  std::map<transfer_id, way> accepted_;             ///< between KvAccept and the open_push it causes
  std::map<request_key, produced_tokens> produced_;
  double step_ms_mean_{};
  std::optional<time_point> submitted_; ///< the step under way
  time_point last_report_{};
  time_point last_sign_{};
  bool was_idle_{true};
  int told_slack_{8}; ///< in eighths of a time per token; plenty until told otherwise
};

offer read_offer(s::KvOffer::Reader in, time_point now) {
  auto spec = wire::read(in.getSpec(), now);
  const auto tokens = static_cast<std::uint32_t>(spec.tokens.size()), rows = in.getTokensToSend();
  KJ_REQUIRE(rows >= tokens && rows <= wire::max_sequence_tokens, "rows out of range", rows, tokens);
  return {transfer_id{in.getTransfer()}, std::move(spec), instance_id{in.getFrom()},
      std::chrono::milliseconds{in.getLeaseMs()}, rows - tokens};
}

} // namespace

wire::instance_actor::behavior_type instance_shell(wire::instance_actor::pointer self, shell_settings settings) {
  wire::outlive_errors(self);
  auto sh = std::make_shared<shell>(self, std::move(settings));
  using wire::on;
  return {
      on<s::KvOffer>([sh, self](s::KvOffer::Reader in) { sh->feed(read_offer(in, wire::now(self))); }),
      on<s::KvAccept>([sh](s::KvAccept::Reader in) { sh->kv_accept(in); }),
      on<s::KvRefuse>([sh](s::KvRefuse::Reader in) {
        sh->feed(offer_refused{transfer_id{in.getTransfer()},
            error{wire::from_wire(in.getCode()), wire::read(in.getReason())}, in.getLeaving()});
      }),
      on<s::KvCommit>([sh](s::KvCommit::Reader in) {
        sh->feed(kv_committed{
            transfer_id{in.getTransfer()}, in.getFirstIndex(), in.getToken(), wire::read(in.getEarlier())});
      }),
      on<s::KvTaken>([sh](s::KvTaken::Reader in) { sh->feed(kv_taken{transfer_id{in.getTransfer()}}); }),
      on<s::MigrateSequence>([sh](s::MigrateSequence::Reader in) {
        sh->feed(migrate{wire::read(in.getKey()), instance_id{in.getTo()}});
      }),
      on<s::KvAbort>([sh](s::KvAbort::Reader in) { sh->feed(transfer_aborted{transfer_id{in.getTransfer()}}); }),
      wire::on_ask<msg<s::Ack>, s::StartSequence>([sh, self](s::StartSequence::Reader in) {
        sh->feed(add{wire::read(in.getSpec(), wire::now(self)), instance_id{in.getDecodeInstance()}});
        return msg<s::Ack>{};
      }),
      on<s::CancelSequence>([sh](s::CancelSequence::Reader in) { sh->feed(cancel{wire::read(in.getKey())}); }),
      on<s::StepDone>([sh](s::StepDone::Reader in) { sh->step_done(in); }),
      on<s::KvMoved>([sh](s::KvMoved::Reader in) { sh->kv_moved(in); }),
      on<s::Retire>([sh](s::Retire::Reader in) { sh->feed(retire{std::chrono::milliseconds{in.getDrainMs()}}); }),
      on<s::PeerUp, wire::kv_peer_actor>([sh](s::PeerUp::Reader in, const wire::kv_peer_actor& peer) {
        sh->peer_up(instance_id{in.getInstance()}, in, peer);
      }),
      on<s::InstanceGone>([sh](s::InstanceGone::Reader in) { sh->peer_gone(instance_id{in.getInstance()}); }),
      on<s::Tick>([sh](s::Tick::Reader) { sh->tick_now(); }),
  };
}

} // namespace hflex::instance
