#include "actors/scheduler/decision_log.hpp"
#include <algorithm>

namespace hflex::scheduler {

namespace {
constexpr std::size_t usual_happenings = 4; // arrived, dispatched, first token, ended
}

std::string_view to_string(happening_kind k) {
  switch (k) {
  case happening_kind::arrived:
    return "arrived";
  case happening_kind::queued:
    return "queued";
  case happening_kind::demoted:
    return "demoted";
  case happening_kind::dispatched:
    return "dispatched";
  case happening_kind::first_token:
    return "first_token";
  case happening_kind::moving:
    return "moving";
  case happening_kind::moved:
    return "moved";
  case happening_kind::stayed:
    return "stayed";
  case happening_kind::shed:
    return "shed";
  case happening_kind::lost:
    return "lost";
  case happening_kind::ended:
    break;
  }
  return "ended";
}

std::string place_in_words(instance_id prefill, instance_id decode) {
  if (!prefill) return decode ? to_string(decode) : std::string{};
  return prefill == decode ? to_string(prefill) : to_string(prefill) + " > " + to_string(decode);
}

const request_story* decision_log::find(request_id id) const {
  if (!on() || !id || slot_of(id) >= stories_.size()) return nullptr; // an empty slot is nobody's
  const auto& story = stories_[slot_of(id)];
  return story.id == id ? &story : nullptr;
}

void decision_log::arrive(
    request_key key, time_point arrival, const slo_targets& slo, time_point now, explanation why) {
  if (!on()) return;
  const auto slot = slot_of(key.id);
  if (slot >= stories_.size()) stories_.resize(std::min<std::uint64_t>(capacity_, std::max(slot + 1, 2 * slot)));
  auto& story = stories_[slot];
  if (story.id != key.id) {
    story.id = key.id;
    story.arrival = arrival;
    story.slo = slo;
    story.happenings.clear(); // its memory serves the next request
    story.happenings.reserve(usual_happenings);
    story.omitted = 0;
  }
  add(key, happening_kind::arrived, now, std::move(why));
}

void decision_log::add(
    request_key key, happening_kind what, time_point now, explanation why, instance_id prefill, instance_id decode) {
  if (!on() || !key.id || slot_of(key.id) >= stories_.size()) return;
  auto& story = stories_[slot_of(key.id)];
  if (story.id != key.id) return;
  if (story.happenings.size() == most_happenings) {
    story.happenings.erase(story.happenings.begin() + most_happenings / 2);
    ++story.omitted;
  }
  story.happenings.push_back({what, now, key.attempt, prefill, decode, std::move(why)});
}

} // namespace hflex::scheduler
