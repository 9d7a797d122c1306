#include "tools/bench/load_client.hpp"
#include "actors/wire/convert.hpp"
#include "actors/wire/shell.hpp"
#include <condition_variable>
#include <mutex>
#include <unordered_map>

namespace hflex::bench {
namespace {

namespace s = wire::schema;
using wire::msg;

using generator_actor = wire::client_actor::extend<caf::reacts_to<msg<s::Tick>>>;

/// What the actor tells the thread that waits for it.
class board {
public:
  void show(const load_progress& p) {
    const std::lock_guard lock(mutex_);
    progress_ = p;
  }
  void finish(std::vector<seen_request> seen, std::string lost) {
    {
      const std::lock_guard lock(mutex_);
      if (done_) return;
      seen_ = std::move(seen);
      lost_ = std::move(lost);
      done_ = true;
    }
    changed_.notify_one();
  }
  /// True when it is over.
  bool wait(duration longest, load_progress& p) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, longest, [this] { return done_; });
    p = progress_;
    return done_;
  }
  result<std::vector<seen_request>> take() {
    const std::lock_guard lock(mutex_);
    if (!lost_.empty()) return fail(errc::reroute, "the head is gone: {}", lost_);
    return std::move(seen_);
  }

private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool done_{false};
  std::string lost_;
  load_progress progress_;
  std::vector<seen_request> seen_;
};

class generator {
public:
  generator(generator_actor::pointer self, wire::router_actor router, std::vector<offered_request> requests,
      const load_settings& settings, std::shared_ptr<board> to)
      : self_(self), router_(std::move(router)), requests_(std::move(requests)), settings_(settings),
        board_(std::move(to)), timer_(self), start_(wire::now(self)), seen_(requests_.size()) {
    for (std::size_t i = 0; i < seen_.size(); ++i) {
      auto& r = seen_[i].record;
      r.slo = requests_[i].slo;
      r.slo_class = requests_[i].slo_class;
      r.timing.arrival = start_ + requests_[i].at;
    }
    last_end_ = start_ + (requests_.empty() ? duration{0} : requests_.back().at) + settings_.longest_end;
  }

  void go_on() {
    timer_.fired();
    const auto now = wire::now(self_);
    if (settings_.enough && *settings_.enough) leave_out_the_rest();
    while (next_ < requests_.size() && start_ + requests_[next_].at <= now && has_room()) send(next_++, now);
    if (now >= last_end_) return finish({});
    if (next_ < requests_.size() && has_room()) timer_.at(start_ + requests_[next_].at);
    timer_.at(last_end_);
    look_for_end();
  }

  void heard(s::TokenChunk::Reader in) {
    const auto found = open_.find(in.getId());
    if (found == open_.end()) return;
    auto& record = seen_[found->second].record;
    const auto now = wire::now(self_);
    if (in.getTokens().size() > 0 && !record.timing.first_token) record.timing.first_token = now;
    record.token_times.insert(record.token_times.end(), in.getTokens().size(), now);
    progress_.tokens += in.getTokens().size();
  }

  void ended(s::JobRecord::Reader in) {
    const auto found = open_.find(in.getId());
    if (found == open_.end()) return;
    auto& one = seen_[found->second];
    open_.erase(found);
    auto& record = one.record;
    record.result = wire::from_wire(in.getOutcome());
    record.slo_class = wire::read(in.getSloClass());
    record.slo.ttft = from_ms(in.getTtftTargetMs());
    record.slo.tpot = from_ms(in.getTpotTargetMs());
    record.timing.output_tokens = in.getOutputTokens();
    // An end-of-text token is not streamed: the end was heard of now.
    if (record.result == outcome::finished) {
      if (record.token_times.size() < in.getOutputTokens()) record.token_times.push_back(wire::now(self_));
      if (!record.timing.first_token) record.timing.first_token = wire::now(self_);
      record.timing.last_token = record.token_times.empty() ? wire::now(self_) : record.token_times.back();
    }
    one.reason = wire::read(in.getReason());
    one.prompt_tokens = in.getPromptTokens();
    one.cached_prompt_tokens = in.getCachedPromptTokens();
    one.router_ttft_ms = in.getTtftMs();
    one.router_tpot_ms = in.getTpotMs();
    one.prefill = instance_id{in.getPrefillInstance()};
    one.decode = instance_id{in.getDecodeInstance()};
    one.migrations = in.getMigrations();
    one.retries = in.getRetries();
    over();
  }

  void lost(const std::string& reason) { finish(reason.empty() ? "it ended" : reason); }

private:
  bool has_room() const { return settings_.max_concurrency == 0 || under_way_ < settings_.max_concurrency; }

  void leave_out_the_rest() {
    requests_.resize(next_);
    seen_.resize(next_);
  }

  void send(std::size_t index, time_point now) {
    ++under_way_;
    ++progress_.sent;
    auto& one = seen_[index];
    one.sent = now - start_;
    if (settings_.max_concurrency > 0) one.record.timing.arrival = now;
    wire::ask(self_, settings_.answer_timeout, router_, requests_[index].job, wire::client_actor{self_})
        .then([this, index](const msg<s::SubmitAnswer>& answer) { answered(index, *answer.read()); },
            [this, index](const caf::error& e) { failed(index, self_->home_system().render(e)); });
    requests_[index].job = {}; // its prompt is needed no more
  }

  void answered(std::size_t index, s::SubmitAnswer::Reader in) {
    if (in.isRefused()) {
      seen_[index].refused = true;
      return failed(index, wire::read(in.getRefused()));
    }
    seen_[index].id = request_id{in.getAccepted()};
    open_.emplace(in.getAccepted(), index);
  }

  void failed(std::size_t index, std::string reason) {
    seen_[index].record.result = outcome::failed;
    seen_[index].reason = std::move(reason);
    over();
  }

  void over() {
    --under_way_;
    ++progress_.ended;
    go_on();
  }

  void look_for_end() {
    board_->show(progress_);
    if (progress_.ended == requests_.size()) finish({});
  }

  void finish(std::string lost) {
    if (finished_) return;
    finished_ = true;
    board_->show(progress_);
    board_->finish(std::move(seen_), std::move(lost));
    self_->quit();
  }

  generator_actor::pointer self_;
  wire::router_actor router_;
  std::vector<offered_request> requests_;
  load_settings settings_;
  std::shared_ptr<board> board_;
  wire::wake_timer<generator_actor::pointer> timer_;
  time_point start_;
  time_point last_end_;
  std::vector<seen_request> seen_;
  std::unordered_map<std::uint64_t, std::size_t> open_; ///< by the router's number
  std::size_t next_{0};
  std::size_t under_way_{0};
  bool finished_{false};
  load_progress progress_;
};

generator_actor::behavior_type generator_shell(generator_actor::pointer self, const wire::router_actor& router,
    const std::shared_ptr<std::vector<offered_request>>& requests, const load_settings& settings,
    const std::shared_ptr<board>& to) {
  auto g = std::make_shared<generator>(self, router, std::move(*requests), settings, to);
  self->set_down_handler([g, self](caf::down_msg& down) { g->lost(self->home_system().render(down.reason)); });
  self->monitor(router);
  self->attach_functor([to](const caf::error&) { to->finish({}, "this client ended"); }); // whatever the cause
  wire::tell(self, self, msg<s::Tick>{});
  return {
      [g](const msg<s::TokenChunk>& m) { g->heard(*m.read()); },
      [g](const msg<s::JobRecord>& m) { g->ended(*m.read()); },
      [](const msg<s::Event>&) {},
      [g](const msg<s::Tick>&) { g->go_on(); },
  };
}

} // namespace

result<std::vector<seen_request>> offer_load(
    runtime::head_client& client, std::vector<offered_request> requests, const load_settings& settings) {
  if (requests.empty()) return std::vector<seen_request>{};
  auto to = std::make_shared<board>();
  auto actor = client.system().spawn(generator_shell, client.router(),
      std::make_shared<std::vector<offered_request>>(std::move(requests)), settings, to);
  load_progress p;
  while (!to->wait(std::chrono::milliseconds{100}, p))
    if (settings.on_progress && !settings.on_progress(p)) {
      caf::anon_send_exit(actor, caf::exit_reason::user_shutdown);
      return fail(errc::fatal, "stopped after {} of {} requests that were sent had ended", p.ended, p.sent);
    }
  return to->take();
}

} // namespace hflex::bench
