#include "actors/wire/convert_scaling.hpp"
#include "actors/wire/convert.hpp"
#include <cmath>

namespace hflex::wire {

namespace {

constexpr unsigned most_classes = 4096;
constexpr unsigned most_instances = 100'000;

duration span_of(std::uint64_t us) {
  constexpr std::uint64_t longest_us = std::uint64_t{366} * 24 * 3600 * 1000000;
  return std::chrono::microseconds{std::min(us, longest_us)};
}

std::uint64_t us_of(duration d) {
  return static_cast<std::uint64_t>(
      std::max<std::int64_t>(0, std::chrono::duration_cast<std::chrono::microseconds>(d).count()));
}

void write(s::ClassDemand::Builder out, const class_demand& c) {
  out.setSloClass(c.slo_class);
  out.setTtftMs(to_ms(c.ttft));
  out.setTpotMs(to_ms(c.tpot));
  out.setArrivals(c.arrivals);
  out.setPromptTokens(c.prompt_tokens);
  out.setPromptTokensSquared(c.prompt_tokens_squared);
  out.setEnded(c.ended);
  out.setOutputTokens(c.output_tokens);
}

class_demand read(s::ClassDemand::Reader in) {
  constexpr double most = 1e15;
  class_demand c;
  c.slo_class = wire::read(in.getSloClass());
  c.ttft = from_ms(finite(in.getTtftMs(), 0, longest_ms, "ttftMs"));
  c.tpot = from_ms(finite(in.getTpotMs(), 0, longest_ms, "tpotMs"));
  c.arrivals = in.getArrivals();
  c.prompt_tokens = finite(in.getPromptTokens(), 0, most, "promptTokens");
  c.prompt_tokens_squared = finite(in.getPromptTokensSquared(), 0, most * most, "promptTokensSquared");
  c.ended = in.getEnded();
  c.output_tokens = finite(in.getOutputTokens(), 0, most, "outputTokens");
  return c;
}

void write(s::InstanceDemand::Builder out, const instance_demand& i) {
  out.setInstance(i.instance.value);
  out.setRole(to_wire(i.role));
  out.setDraining(i.draining);
  out.setDecoding(i.decoding);
  out.setPromised(i.promised);
  out.setDecodeContext(i.decode_context);
  out.setPendingPrefill(i.pending_prefill);
  out.setKvBlocks(i.kv_blocks);
  out.setKvBlocksTaken(i.kv_blocks_taken);
  out.setBlockSize(i.block_size);
  out.setMaxBatchedTokens(i.max_batched_tokens);
  out.setMaxSequences(i.max_sequences);
  out.setTpotHeadroom(i.tpot_headroom);
  wire::write(out.initModel(), i.model);
}

instance_demand read(s::InstanceDemand::Reader in) {
  instance_demand i;
  i.instance = instance_id{in.getInstance()};
  i.role = from_wire(in.getRole());
  i.draining = in.getDraining();
  i.decoding = in.getDecoding();
  i.promised = in.getPromised();
  i.decode_context = in.getDecodeContext();
  i.pending_prefill = in.getPendingPrefill();
  i.kv_blocks = in.getKvBlocks();
  i.kv_blocks_taken = in.getKvBlocksTaken();
  i.block_size = in.getBlockSize();
  i.max_batched_tokens = in.getMaxBatchedTokens();
  i.max_sequences = in.getMaxSequences();
  KJ_REQUIRE(i.kv_blocks > 0 && i.block_size > 0 && i.max_batched_tokens > 0 && i.max_sequences > 0,
      "an instance without capacity", i.instance.value);
  i.tpot_headroom = finite(in.getTpotHeadroom(), -1e12, 1, "tpotHeadroom");
  i.model = wire::read(in.getModel());
  return i;
}

} // namespace

void write(s::DemandReport::Builder out, const demand_report& report) {
  out.setSpanUs(us_of(report.span));
  auto classes = out.initClasses(static_cast<unsigned>(report.classes.size()));
  for (unsigned i = 0; i < classes.size(); ++i) write(classes[i], report.classes[i]);
  auto instances = out.initInstances(static_cast<unsigned>(report.instances.size()));
  for (unsigned i = 0; i < instances.size(); ++i) write(instances[i], report.instances[i]);
  out.setWaiting(report.waiting);
  out.setWaitingTokens(report.waiting_tokens);
  out.setLate(report.late);
  out.setLateWithOneMore(report.late_with_one_more);
  out.setLatestByUs(us_of(report.latest_by));
  out.setWithoutRoom(report.without_room);
  out.setLookedAt(report.looked_at);
  out.setOverdue(report.overdue);
  out.setMixedApart(report.mixed_apart);
  out.setDecoded(report.decoded);
}

demand_report read(s::DemandReport::Reader in) {
  KJ_REQUIRE(in.getClasses().size() <= most_classes && in.getInstances().size() <= most_instances, "too long a report");
  demand_report report;
  report.span = span_of(in.getSpanUs());
  for (auto c : in.getClasses()) report.classes.push_back(read(c));
  for (auto i : in.getInstances()) report.instances.push_back(read(i));
  report.waiting = in.getWaiting();
  report.waiting_tokens = in.getWaitingTokens();
  report.late = in.getLate();
  report.late_with_one_more = in.getLateWithOneMore();
  report.latest_by = span_of(in.getLatestByUs());
  report.without_room = in.getWithoutRoom();
  report.looked_at = in.getLookedAt();
  report.overdue = in.getOverdue();
  report.mixed_apart = in.getMixedApart();
  report.decoded = in.getDecoded();
  return report;
}

void write(s::ScaleFleet::Builder out, const scaler::request_scale& command) {
  out.setHasRole(command.role.has_value());
  if (command.role) out.setRole(to_wire(*command.role));
  out.setHasCount(command.count.has_value());
  out.setCount(command.count.value_or(0));
  out.setHasMin(command.min_instances.has_value());
  out.setMin(command.min_instances.value_or(0));
  out.setHasMax(command.max_instances.has_value());
  out.setMax(command.max_instances.value_or(0));
  out.setAutomatic(command.automatic);
}

scaler::request_scale read(s::ScaleFleet::Reader in) {
  scaler::request_scale command;
  if (in.getHasRole()) command.role = from_wire(in.getRole());
  if (in.getHasCount()) command.count = in.getCount();
  if (in.getHasMin()) command.min_instances = in.getMin();
  if (in.getHasMax()) command.max_instances = in.getMax();
  command.automatic = in.getAutomatic();
  return command;
}

void write(
    capnp::List<s::ScalingDecision>::Builder out, const std::deque<scaler::decision>& decisions, time_point now) {
  for (unsigned i = 0; i < out.size(); ++i) {
    const auto& d = decisions[i];
    out[i].setNumber(d.number);
    out[i].setAgeUs(age_us(d.when, now));
    out[i].setWhy(d.what.why);
    out[i].setAdvice(d.what.advice);
    auto numbers = out[i].initNumbers(static_cast<unsigned>(d.what.numbers.size()));
    for (unsigned n = 0; n < numbers.size(); ++n) {
      numbers[n].setName(std::string(d.what.numbers[n].name));
      numbers[n].setValue(d.what.numbers[n].value);
    }
  }
}

} // namespace hflex::wire
