// What happened to the latest requests and why, so that people can ask (`hflex explain`). The core tells it of every
// event and decision; it keeps values and makes no text. Bounded both ways: so many requests, so many happenings of
// each. It must not decide anything.
//
// Requests are numbered in the order in which they come, so a request's slot is its number modulo the capacity: a new
// one takes the place of the one that came `capacity` requests before, and nothing is searched, allocated or evicted.
#pragma once
#include "actors/common/explanation.hpp"
#include "actors/common/ids.hpp"
#include "actors/common/slo.hpp"
#include <string>
#include <string_view>
#include <vector>

namespace hflex::scheduler {

enum class happening_kind : std::uint8_t {
  arrived,     ///< an attempt reached the scheduler
  queued,      ///< no instance could take it at once
  demoted,     ///< it lost its place in the plan
  dispatched,  ///< sent to its instances
  first_token, ///< of this attempt
  moving,      ///< told to migrate
  moved,       ///< decodes elsewhere now
  stayed,      ///< the move came to nothing
  shed,        ///< turned away
  lost,        ///< its instance is gone
  ended,       ///< this attempt is over, well or not
};

/// One word, for scripts.
std::string_view to_string(happening_kind k);

/// The instances of a happening for people: "i1", "i1 > i2" where prefill and decode differ, or nothing.
std::string place_in_words(instance_id prefill, instance_id decode);

struct happening {
  happening_kind what{happening_kind::arrived};
  time_point at;
  std::uint32_t attempt{};
  instance_id prefill; ///< of a dispatch
  instance_id decode;  ///< of a dispatch or a move
  explanation why;
};

struct request_story {
  request_id id;
  time_point arrival;
  slo_targets slo;
  std::vector<happening> happenings; ///< oldest first
  std::uint32_t omitted{};           ///< left out of the middle: the first and the latest tell most
};

class decision_log {
public:
  /// A request has at most so many happenings here.
  static constexpr std::size_t most_happenings = 32;

  /// Remembers the latest `capacity` requests; 0 = nothing, at no cost.
  explicit decision_log(std::uint32_t capacity) : capacity_(capacity) {}

  bool on() const { return capacity_ > 0; }
  /// Begins the story of a request, or goes on with it when it is a later attempt.
  void arrive(request_key key, time_point arrival, const slo_targets& slo, time_point now, explanation why);
  /// Ignored for a request that is not remembered. O(1).
  void add(request_key key, happening_kind what, time_point now, explanation why = {}, instance_id prefill = {},
      instance_id decode = {});

  /// Nothing when it never came here or is forgotten. Valid until the next arrive() or add().
  const request_story* find(request_id id) const;

private:
  std::uint64_t slot_of(request_id id) const { return id.value % capacity_; }

  std::uint32_t capacity_;
  std::vector<request_story> stories_; ///< by slot; grows up to the capacity
};

} // namespace hflex::scheduler
