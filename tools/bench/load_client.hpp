// Offers requests to a cluster as its clients would: each at its time, whatever became of those before (open loop), and
// writes down what each client saw. Used by `hflex bench load`.
#pragma once
#include "actors/common/metrics.hpp"
#include "tools/runtime/client.hpp"
#include <atomic>
#include <functional>
#include <memory>
#include <vector>

namespace hflex::bench {

/// A request to offer.
struct offered_request {
  duration at{}; ///< since the start of the run; ascending
  wire::msg<wire::schema::SubmitJob> job;
  slo_targets slo; ///< what it is judged by, where the router does not say other targets
  std::string slo_class;
};

/// What its client saw. Latencies count from the time at which it should have been sent; with max_concurrency, from
/// the time at which it was.
struct seen_request {
  request_record record; ///< token times are those at which the client heard of them
  duration sent{};       ///< since the start of the run
  bool refused{false};   ///< by the router: failed, in the record
  std::string reason;
  // As the router tells at the end:
  request_id id;
  std::uint32_t prompt_tokens{};
  std::uint32_t cached_prompt_tokens{};
  double router_ttft_ms{-1};
  double router_tpot_ms{-1};
  instance_id prefill;
  instance_id decode;
  std::uint32_t migrations{};
  std::uint32_t retries{};
};

struct load_progress {
  std::size_t sent{};
  std::size_t ended{};
  std::uint64_t tokens{};
};

struct load_settings {
  std::size_t max_concurrency{0};                    ///< requests under way at a time, 0 = no limit
  duration answer_timeout{std::chrono::seconds{30}}; ///< of a submission: it counts as failed then
  duration longest_end{std::chrono::minutes{10}};  ///< after the last request is due; what has not ended is unfinished
  std::shared_ptr<const std::atomic<bool>> enough; ///< set, nothing more is sent: those that were are the result
  std::function<bool(const load_progress&)> on_progress; ///< ten times a second; false ends the run
};

/// Blocks until every request has ended. In the order of `requests`. errc::reroute when the head is lost, errc::fatal
/// when stopped: what was under way is cancelled by the router, as its client is gone.
result<std::vector<seen_request>> offer_load(
    runtime::head_client& client, std::vector<offered_request> requests, const load_settings& settings);

} // namespace hflex::bench
