// Names, and the defaults that are more than a number.
#include "config/config.hpp"

namespace hflex::config {

std::vector<slo_class> default_slo_classes() {
  using std::chrono::milliseconds;
  using std::chrono::seconds;
  return {
      {"interactive", {milliseconds{450}, milliseconds{40}, std::nullopt, 2.0, late_action::serve_late},
          "MLPerf Inference, Llama2-70B interactive: 450 ms to the first token, 40 ms per token, at p99"},
      {"standard", {milliseconds{2000}, milliseconds{100}, std::nullopt, 1.0, late_action::serve_late},
          "MLPerf Inference, Llama3.1-8B conversational: 2000 ms to the first token, 100 ms per token, at p99"},
      {"batch", {seconds{30}, milliseconds{300}, std::nullopt, 0.2, late_action::serve_late},
          "Mooncake (FAST 25, section 5.1), long-context chat: 30 s to the first token, gaps under 300 ms"},
  };
}

std::vector<fleet_entry> default_fleet(serving_mode mode) {
  if (mode == serving_mode::collocated) return {{instance_role::mixed, 1}};
  return {{instance_role::prefill, 1}, {instance_role::decode, 1}};
}

std::string_view to_string(serving_mode mode) {
  return mode == serving_mode::collocated ? "collocated" : "disaggregated";
}

std::string_view to_string(log_level level) {
  switch (level) {
  case log_level::trace:
    return "trace";
  case log_level::debug:
    return "debug";
  case log_level::info:
    return "info";
  case log_level::warning:
    return "warning";
  case log_level::error:
    return "error";
  case log_level::off:
    return "off";
  }
  return "unknown";
}

} // namespace hflex::config
