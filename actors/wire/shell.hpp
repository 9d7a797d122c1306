// What every shell needs to drive a core: a loop that performs effects in order, and the one timer that wake_at asks
// for.
#pragma once
#include "actors/wire/interfaces.hpp"
#include <deque>
#include <optional>
#include <utility>
#include <variant>
#include <vector>

namespace hflex::wire {

/// Called first by every actor that others can reach. CAF sends a receiver's error back for a message that was no
/// question as well, and its default ends the actor that hears it: one instance that refuses an introduction would take
/// the head's cluster actor with it. Answers to questions come to those who asked, as ever.
template <class Pointer>
void outlive_errors(Pointer self) {
  self->set_error_handler([](caf::error&) {});
}

/// Performs effects strictly in order, also those that performing one gives rise to. `Shell` has
/// `perform(Alternative&)` for every alternative of `Effect`. Feed it: core.on(event, now, loop.queue()); loop.drain().
template <class Shell, class Effect>
class effect_loop {
public:
  std::vector<Effect>& queue() { return fresh_; }

  void drain() {
    if (draining_) return; // an effect that feeds the core again: the outer loop performs what came of it
    draining_ = true;
    take();
    while (!pending_.empty()) {
      auto effect = std::move(pending_.front());
      pending_.pop_front();
      std::visit([this](auto& e) { static_cast<Shell*>(this)->perform(e); }, effect);
      take();
    }
    draining_ = false;
  }

private:
  void take() {
    for (auto& e : fresh_) pending_.push_back(std::move(e));
    fresh_.clear();
  }
  std::vector<Effect> fresh_;
  std::deque<Effect> pending_;
  bool draining_{false};
};

/// Sends the actor one Tick at the earliest time asked for. Call fired() first thing when it comes; a tick that comes
/// early or twice does no harm to any core.
template <class Pointer>
class wake_timer {
public:
  explicit wake_timer(Pointer self) : self_(self) {}

  void at(time_point when) {
    if (armed_ && *armed_ <= when) return;
    armed_ = when;
    auto delay = std::max(when - now(self_), duration{0});
    tell_after(self_, delay, self_, msg<schema::Tick>{});
  }

  void fired() {
    // A tick of an earlier, since overtaken request: the armed one is still on its way.
    if (armed_ && now(self_) >= *armed_) armed_.reset();
  }

private:
  Pointer self_;
  std::optional<time_point> armed_;
};

} // namespace hflex::wire
