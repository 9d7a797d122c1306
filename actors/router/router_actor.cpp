#include "actors/router/router_actor.hpp"
#include "actors/wire/convert.hpp"
#include "actors/wire/shell.hpp"
#include <cmath>
#include <set>
#include <spdlog/spdlog.h>

namespace hflex::router {
namespace {

namespace s = wire::schema;
using wire::msg;

double ms_or_minus_one(const std::optional<duration>& d) { return d ? to_ms(*d) : -1.0; }

void write(s::JobRecord::Builder out, const job_record& r, std::string_view text, time_point now) {
  out.setId(r.id.value);
  out.setState(static_cast<s::JobState>(r.state));
  if (r.outcome) out.setOutcome(wire::to_wire(*r.outcome));
  out.setReason(r.reason);
  out.setSloClass(r.slo_class);
  out.setText(kj::StringPtr(std::string{text}.c_str()));
  wire::write(out.initTokenIds(static_cast<unsigned>(r.token_ids.size())), r.token_ids);
  out.setPromptTokens(r.prompt_tokens);
  out.setCachedPromptTokens(r.cached_prompt_tokens);
  out.setOutputTokens(r.output_tokens());
  out.setMaxOutputTokens(r.max_output_tokens);
  out.setTtftMs(ms_or_minus_one(ttft(r.timing)));
  out.setTpotMs(ms_or_minus_one(tpot(r.timing)));
  out.setE2eMs(r.ended_at ? to_ms(*r.ended_at - r.timing.arrival) : -1.0);
  out.setTtftTargetMs(to_ms(r.targets.ttft));
  out.setTpotTargetMs(to_ms(r.targets.tpot));
  out.setAttained(r.attained);
  out.setStrictlyAttained(r.strictly_attained);
  out.setPrefillInstance(r.prefill_instance.value);
  out.setDecodeInstance(r.decode_instance.value);
  out.setMigrations(r.migrations);
  out.setRetries(r.retries);
  out.setAgeMs(to_ms(now - r.timing.arrival));
}

class shell : public wire::effect_loop<shell, effect> {
public:
  shell(wire::router_actor::pointer self, shell_settings settings)
      : self_(self), set_(std::move(settings)), core_(set_.core), timer_(self) {}

  template <class Event>
  void feed(const Event& event) {
    core_.on(event, wire::now(self_), queue());
    drain();
  }

  void tick_now() {
    timer_.fired();
    feed(tick{});
  }

  // ---- clients ----

  msg<s::SubmitAnswer> submit_job(s::SubmitJob::Reader in, const wire::client_actor& client) {
    auto prompt = in.getMessages().size() > 0 ? conversation_of(in) : prompt_of(in);
    if (!prompt) return refusal(prompt.error().message);
    submit e;
    e.client = client_of(client);
    e.client_ref = ++last_ref_;
    e.prompt = std::move(*prompt);
    if (in.getMaxOutputTokens() > 0) e.max_output_tokens = in.getMaxOutputTokens();
    e.sampling = wire::read(in.getSampling());
    e.ignore_eos = in.getIgnoreEos();
    e.slo_class = wire::read(in.getSloClass());
    // NaN, infinite and negative targets reach the core as what they are: zero or below, and it refuses them with
    // words.
    if (auto ms = in.getTtftTargetMs(); ms != 0) e.ttft = from_ms(std::isfinite(ms) ? std::clamp(ms, -1.0, 1e9) : -1.0);
    if (auto ms = in.getTpotTargetMs(); ms != 0) e.tpot = from_ms(std::isfinite(ms) ? std::clamp(ms, -1.0, 1e9) : -1.0);
    e.detach = in.getDetach();
    answer_ = refusal("the router did not answer");
    feed(e);
    return answer_;
  }

  msg<s::CommandAnswer> cancel_job(request_id id) {
    cancel_answer_ = {};
    feed(cancel{{}, id});
    return cancel_answer_;
  }

  msg<s::JobList> list_jobs(s::JobQuery::Reader in) const {
    std::vector<job_record> records;
    if (request_id id{in.getId()}; id) {
      if (const auto* r = core_.job(id)) records.push_back(*r);
    } else {
      records = core_.jobs();
      std::size_t limit = in.getLimit() > 0 ? in.getLimit() : 1000;
      if (records.size() > limit) records.erase(records.begin(), records.end() - static_cast<std::ptrdiff_t>(limit));
    }
    auto now = wire::now(self_);
    // A list of many shows what became of each; texts come with the one that is asked for.
    auto whole = in.getId() != 0;
    return msg<s::JobList>::make(
        [&](s::JobList::Builder out) {
          auto list = out.initJobs(static_cast<unsigned>(records.size()));
          for (unsigned i = 0; i < records.size(); ++i) {
            write(list[i], records[i], whole ? set_.tokenizer->decode(records[i].token_ids) : std::string{}, now);
            if (!whole) list[i].disownTokenIds();
          }
          out.setInFlight(static_cast<std::uint32_t>(core_.in_flight()));
          out.setLimit(static_cast<std::uint32_t>(core_.configuration().max_in_flight));
        },
        64 + records.size() * 40);
  }

  caf::result<msg<s::WaitAnswer>> wait_job(request_id id, const wire::client_actor& client) {
    auto promise = self_->make_response_promise<msg<s::WaitAnswer>>();
    client_id asker = next_client();
    waits_.emplace(asker, wait_entry{promise, client.address()});
    watch_client(client);
    feed(wait{asker, id});
    return promise;
  }

  // ---- instances ----

  void instance_up(instance_id id, const wire::instance_actor& handle) { instances_[id] = handle; }

  void instance_down(instance_id id) {
    instances_.erase(id);
    feed(instance_gone{id});
  }

  void produced(s::TokensProduced::Reader in) {
    instance_id from{in.getInstance()};
    for (auto one : in.getSequences()) {
      tokens e;
      e.key = wire::read(one.getKey());
      e.instance = from;
      e.first_index = one.getFirstIndex();
      e.ids = wire::read(one.getTokens());
      e.cached_prompt_tokens = one.getCachedPromptTokens();
      feed(e);
    }
  }

  void migration_ended(s::MigrationEnded::Reader in) {
    const auto key = wire::read(in.getKey());
    const instance_id to{in.getTo()};
    if (in.getFailed())
      feed(migration_failed{key, to, wire::read(in.getReason())});
    else
      feed(migrated{key, to});
  }

  void held(s::SequencesHeld::Reader in) {
    instance_id from{in.getInstance()};
    for (auto key : in.getKeys()) feed(progress{wire::read(key), from});
  }

  // ---- effects ----

  void perform(accepted& e) {
    decoders_.emplace(e.id, gpu::stream_decoder{set_.tokenizer});
    answer_ = msg<s::SubmitAnswer>::make([&](s::SubmitAnswer::Builder out) { out.setAccepted(e.id.value); });
  }

  void perform(refused& e) { answer_ = refusal(e.reason); }

  void perform(to_scheduler_arrived& e) {
    wire::tell(self_, set_.scheduler, msg<s::RequestArrived>::make([&](s::RequestArrived::Builder out) {
      wire::write(out.initKey(), e.key);
      out.setAgeUs(wire::age_us(e.arrival, wire::now(self_)));
      out.setPromptTokens(e.prompt_tokens);
      out.setProduced(e.produced);
      out.setMaxOutputTokens(e.max_output_tokens);
      wire::write(out.initSlo(), e.targets);
      out.setSloClass(e.slo_class);
      auto marks = out.initPrefixMarks(static_cast<unsigned>(e.prefix.size()));
      for (unsigned i = 0; i < e.prefix.size(); ++i) marks.set(i, e.prefix[i]);
    }));
  }

  void perform(to_scheduler_prefill_finished& e) {
    wire::tell(self_, set_.scheduler, msg<s::PrefillFinished>::make([&](s::PrefillFinished::Builder out) {
      wire::write(out.initKey(), e.key);
      out.setCachedPromptTokens(e.cached_prompt_tokens);
    }));
  }

  void perform(to_scheduler_moved& e) {
    spdlog::debug("router: {} at {} {}", to_string(e.key), to_string(e.at), e.reason);
    wire::tell(self_, set_.scheduler, msg<s::Moved>::make([&](s::Moved::Builder out) {
      wire::write(out.initKey(), e.key);
      out.setAt(e.at.value);
      out.setReason(e.reason);
    }));
  }

  void perform(migrate_at& e) {
    auto found = instances_.find(e.instance);
    if (found == instances_.end()) { // and so its requests are about to begin again
      feed(migration_failed{e.key, e.to, to_string(e.instance) + " is not known here"});
      return;
    }
    wire::tell(self_, found->second, msg<s::MigrateSequence>::make([&](s::MigrateSequence::Builder out) {
      wire::write(out.initKey(), e.key);
      out.setTo(e.to.value);
    }));
  }

  void perform(to_scheduler_ended& e) {
    wire::tell(self_, set_.scheduler, msg<s::RequestEnded>::make([&](s::RequestEnded::Builder out) {
      wire::write(out.initKey(), e.key);
      out.setFinished(e.outcome == hflex::outcome::finished);
      out.setOutputTokens(e.output_tokens);
    }));
  }

  void perform(start& e) {
    auto found = instances_.find(e.prefill);
    if (found == instances_.end()) {
      not_started(e.spec.key, e.prefill, "the instance is not known here");
      return;
    }
    auto message = msg<s::StartSequence>::make(
        [&](s::StartSequence::Builder out) {
          wire::write(out.initSpec(), e.spec, wire::now(self_));
          out.setDecodeInstance(e.decode.value);
        },
        64 + e.spec.tokens.size() / 2);
    auto key = e.spec.key;
    auto instance = e.prefill;
    // Confirmed, because a message to an actor that has just ended (role flip, crash) is dropped without a sound.
    wire::ask(self_, set_.start_timeout, found->second, message)
        .then([](const msg<s::Ack>&) {},
            [this, key, instance](
                const caf::error& err) { not_started(key, instance, self_->home_system().render(err)); });
  }

  void perform(cancel_at& e) {
    if (auto found = instances_.find(e.instance); found != instances_.end())
      wire::tell_urgent(self_, found->second,
          msg<s::CancelSequence>::make([&](s::CancelSequence::Builder out) { wire::write(out.initKey(), e.key); }));
  }

  void perform(cancel_result& e) {
    cancel_answer_ = msg<s::CommandAnswer>::make([&](s::CommandAnswer::Builder out) {
      out.setOk(e.cancelled);
      out.setMessage(e.answer);
    });
  }

  void perform(client_tokens& e) {
    auto client = clients_.find(e.client);
    auto decoder = decoders_.find(e.id);
    if (client == clients_.end() || decoder == decoders_.end()) return;
    std::string text;
    for (auto id : e.ids) text += decoder->second.push(id);
    wire::tell(self_, client->second, msg<s::TokenChunk>::make([&](s::TokenChunk::Builder out) {
      out.setId(e.id.value);
      out.setFirstIndex(e.first_index);
      wire::write(out.initTokens(static_cast<unsigned>(e.ids.size())), e.ids);
      out.setText(text);
    }));
  }

  void perform(client_done& e) {
    decoders_.erase(e.id);
    spdlog::debug("router: {} {} ({})", to_string(e.id), to_string(*e.record.outcome), e.record.reason);
    if (auto client = clients_.find(e.client); client != clients_.end())
      wire::tell(self_, client->second, record_message(e.record));
  }

  void perform(wait_done& e) {
    auto found = waits_.find(e.client);
    if (found == waits_.end()) return;
    found->second.promise.deliver(msg<s::WaitAnswer>::make(
        [&](s::WaitAnswer::Builder out) {
          if (e.record)
            write(out.initJob(), *e.record, set_.tokenizer->decode(e.record->token_ids), wire::now(self_));
          else
            out.setRefused(e.reason);
        },
        256));
    waits_.erase(found);
  }

  void perform(wake_at& e) { timer_.at(e.time); }

private:
  struct wait_entry {
    caf::typed_response_promise<msg<s::WaitAnswer>> promise;
    caf::actor_addr client;
  };

  static msg<s::SubmitAnswer> refusal(const std::string& reason) {
    return msg<s::SubmitAnswer>::make([&](s::SubmitAnswer::Builder out) { out.setRefused(reason); });
  }

  result<std::vector<token_id>> prompt_of(s::SubmitJob::Reader in) const {
    auto text = in.getPrompt();
    if (text.size() > set_.max_prompt_bytes)
      return fail(errc::reject, "the prompt has {} bytes; at most {} are accepted", text.size(), set_.max_prompt_bytes);
    return set_.tokenizer->encode({text.cStr(), text.size()}, {});
  }

  result<std::vector<token_id>> conversation_of(s::SubmitJob::Reader in) const {
    auto list = in.getMessages();
    if (in.getPrompt().size() > 0) return fail(errc::reject, "a job has a prompt or messages, not both");
    if (list.size() > set_.max_messages)
      return fail(errc::reject, "{} messages; at most {} are accepted", list.size(), set_.max_messages);
    std::size_t bytes = 0;
    std::vector<gpu::chat_message> messages;
    for (auto m : list) {
      bytes += m.getContent().size() + m.getRole().size();
      if (bytes > set_.max_prompt_bytes)
        return fail(errc::reject, "the messages have more than {} bytes together", set_.max_prompt_bytes);
      messages.push_back({wire::read(m.getRole()), wire::read(m.getContent())});
    }
    if (!set_.chat) return pass(set_.chat.error());
    return set_.chat->encode(messages, *set_.tokenizer);
  }

  msg<s::JobRecord> record_message(const job_record& r) const {
    return msg<s::JobRecord>::make(
        [&](s::JobRecord::Builder out) { write(out, r, set_.tokenizer->decode(r.token_ids), wire::now(self_)); },
        128 + r.token_ids.size());
  }

  /// Not at once: until the scheduler hears of the instance's end it would place the next attempts there as well.
  void not_started(request_key key, instance_id instance, const std::string& why) {
    wire::tell_after(self_, set_.restart_delay, self_, msg<s::HandedBack>::make([&](s::HandedBack::Builder out) {
      wire::write(out.initKey(), key);
      out.setInstance(instance.value);
      out.setCode(wire::to_wire(errc::reroute));
      out.setReason(to_string(instance) + " did not take it: " + why);
    }));
  }

  client_id next_client() { return client_id{++last_client_}; }

  client_id client_of(const wire::client_actor& client) {
    auto [found, fresh] = client_ids_.try_emplace(client.address());
    if (fresh) {
      found->second = next_client();
      clients_[found->second] = client;
      watch_client(client);
    }
    return found->second;
  }

  void watch_client(const wire::client_actor& client) {
    if (!watched_.insert(client.address()).second) return;
    watcher_.watch(self_, client, [this, address = client.address()](const std::string&) {
      watched_.erase(address);
      std::vector<client_id> gone;
      for (const auto& [id, entry] : waits_)
        if (entry.client == address) gone.push_back(id);
      for (auto id : gone) {
        waits_.erase(id);
        feed(client_gone{id});
      }
      if (auto found = client_ids_.find(address); found != client_ids_.end()) {
        auto id = found->second;
        client_ids_.erase(found);
        clients_.erase(id);
        feed(client_gone{id});
      }
    });
  }

  wire::router_actor::pointer self_;
  shell_settings set_;
  core core_;
  wire::wake_timer<wire::router_actor::pointer> timer_;
  wire::watcher watcher_;
  std::map<instance_id, wire::instance_actor> instances_;
  std::map<client_id, wire::client_actor> clients_;
  std::map<caf::actor_addr, client_id> client_ids_;
  std::set<caf::actor_addr> watched_;
  std::map<client_id, wait_entry> waits_; ///< each wait is a client of its own to the core
  std::map<request_id, gpu::stream_decoder> decoders_;
  std::uint64_t last_client_{0};
  std::uint64_t last_ref_{0};
  msg<s::SubmitAnswer> answer_;         ///< of the submit that is being fed
  msg<s::CommandAnswer> cancel_answer_; ///< of the cancel that is being fed
};

} // namespace

wire::router_actor::behavior_type router_shell(wire::router_actor::pointer self, shell_settings settings) {
  wire::outlive_errors(self);
  wire::tell(self, settings.scheduler, msg<s::Ack>{}, wire::router_actor{self});
  auto sh = std::make_shared<shell>(self, std::move(settings));
  using wire::on;
  using wire::on_ask;
  return {
      on_ask<msg<s::SubmitAnswer>, s::SubmitJob, wire::client_actor>(
          [sh](s::SubmitJob::Reader in, const wire::client_actor& client) { return sh->submit_job(in, client); }),
      on_ask<msg<s::CommandAnswer>, s::CancelJob>(
          [sh](s::CancelJob::Reader in) { return sh->cancel_job(request_id{in.getId()}); }),
      on_ask<msg<s::JobList>, s::JobQuery>([sh](s::JobQuery::Reader in) { return sh->list_jobs(in); }),
      on_ask<msg<s::WaitAnswer>, s::WaitJob, wire::client_actor>(
          [sh](s::WaitJob::Reader in, const wire::client_actor& client) {
            return sh->wait_job(request_id{in.getId()}, client);
          }),
      on<s::Placed>([sh](s::Placed::Reader in) {
        sh->feed(
            placed{wire::read(in.getKey()), instance_id{in.getPrefillInstance()}, instance_id{in.getDecodeInstance()}});
      }),
      on<s::Shed>([sh](s::Shed::Reader in) {
        sh->feed(shed{wire::read(in.getKey()), wire::read(in.getReason())});
      }),
      on<s::TokensProduced>([sh](s::TokensProduced::Reader in) { sh->produced(in); }),
      on<s::SequencesHeld>([sh](s::SequencesHeld::Reader in) { sh->held(in); }),
      on<s::SequenceEnded>([sh](s::SequenceEnded::Reader in) {
        sh->feed(ended{wire::read(in.getKey()), instance_id{in.getInstance()}, wire::from_wire(in.getCause()),
            in.getCachedPromptTokens(), in.getOutputTokens()});
      }),
      on<s::HandedBack>([sh](s::HandedBack::Reader in) {
        sh->feed(handed_back{wire::read(in.getKey()), instance_id{in.getInstance()}, wire::from_wire(in.getCode()),
            wire::read(in.getReason()), in.getLeaving()});
      }),
      on<s::Migrate>([sh](s::Migrate::Reader in) {
        sh->feed(move{wire::read(in.getKey()), instance_id{in.getFrom()}, instance_id{in.getTo()}});
      }),
      on<s::MigrationEnded>([sh](s::MigrationEnded::Reader in) { sh->migration_ended(in); }),
      on<s::InstanceUp, wire::instance_actor>([sh](s::InstanceUp::Reader in, const wire::instance_actor& handle) {
        sh->instance_up(instance_id{in.getInstance()}, handle);
      }),
      on<s::InstanceGone>([sh](s::InstanceGone::Reader in) { sh->instance_down(instance_id{in.getInstance()}); }),
      on<s::Tick>([sh](s::Tick::Reader) { sh->tick_now(); }),
  };
}

} // namespace hflex::router
