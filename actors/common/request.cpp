#include "actors/common/request.hpp"

namespace hflex {

std::string_view to_string(instance_role role) {
  switch (role) {
  case instance_role::prefill:
    return "prefill";
  case instance_role::decode:
    return "decode";
  case instance_role::mixed:
    return "mixed";
  }
  return "mixed";
}

std::string_view to_string(outcome o) {
  switch (o) {
  case outcome::finished:
    return "finished";
  case outcome::shed:
    return "shed";
  case outcome::cancelled:
    return "cancelled";
  case outcome::failed:
    return "failed";
  }
  return "failed";
}

std::string_view to_string(stop_cause c) {
  switch (c) {
  case stop_cause::eos:
    return "eos";
  case stop_cause::max_tokens:
    return "max_tokens";
  case stop_cause::context_full:
    return "context_full";
  }
  return "eos";
}

std::string_view to_string(late_action a) { return a == late_action::shed ? "shed" : "serve_late"; }

std::optional<instance_role> parse_instance_role(std::string_view word) {
  for (auto role : {instance_role::prefill, instance_role::decode, instance_role::mixed})
    if (word == to_string(role)) return role;
  return std::nullopt;
}

} // namespace hflex
