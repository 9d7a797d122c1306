// What the head hears of this node's instances.
#include "actors/node/node_shell_actor.hpp"

namespace hflex::node {
namespace {

const char* path_of(s::SourceKind kind) {
  switch (kind) {
  case s::SourceKind::DISK:
    return "disk";
  case s::SourceKind::NETWORK:
    return "network";
  case s::SourceKind::SHARED_MEMORY:
    return "shared_memory";
  case s::SourceKind::SAME_PROCESS:
    break;
  }
  return "same_process";
}

bool comes_from_a_node(s::SourceKind kind) {
  return kind == s::SourceKind::SHARED_MEMORY || kind == s::SourceKind::NETWORK;
}

} // namespace

void shell::perform(report& e) {
  auto found = instances_.find(e.instance);
  if (e.state == report_state::running && found != instances_.end() && found->second.actor) {
    report_ready(e, found->second);
    return;
  }
  if (e.state == report_state::rejected)
    spdlog::warn("node: order about {} rejected: {}", to_string(e.instance), e.reason);
  if (e.state == report_state::failed) spdlog::error("node: {} failed: {}", to_string(e.instance), e.reason);
  // An order that changed nothing about an instance that lives on: it is still ready, in its old role.
  auto lives = e.state == report_state::rejected && found != instances_.end() && found->second.actor;
  wire::tell(self_, cluster_, msg<s::InstanceState>::make([&](s::InstanceState::Builder out) {
    out.setInstance(e.instance.value);
    out.setNode(core_.id().value);
    out.setReason(e.reason);
    if (found != instances_.end()) out.setDevice(found->second.device);
    if (lives)
      out.setRole(wire::to_wire(found->second.role));
    else if (e.role)
      out.setRole(wire::to_wire(*e.role));
    switch (e.state) {
    case report_state::starting:
      out.setPhase(s::InstancePhase::STARTING);
      break;
    case report_state::running:
      out.setPhase(s::InstancePhase::READY);
      break;
    case report_state::stopping:
      out.setPhase(s::InstancePhase::DRAINING);
      break;
    case report_state::stopped:
      out.setPhase(s::InstancePhase::GONE);
      break;
    case report_state::failed:
      out.setPhase(s::InstancePhase::FAILED);
      break;
    case report_state::rejected:
      out.setPhase(lives ? s::InstancePhase::READY : s::InstancePhase::FAILED);
      break;
    }
  }));
  if (e.state == report_state::stopped || e.state == report_state::failed) instances_.erase(e.instance);
  if (e.state == report_state::rejected && !lives && found != instances_.end() && !knows(e.instance))
    instances_.erase(found);
}

void shell::report_ready(const report& e, const instance_entry& entry) {
  const auto& made = contexts_.at(entry.context);
  const auto& context = *made.context;
  if (const auto from = context.weights_from(); !from.empty())
    spdlog::info("node: {} has its weights on the device from {}", to_string(e.instance), from);
  auto message = msg<s::InstanceReady>::make([&](s::InstanceReady::Builder out) {
    out.setInstance(e.instance.value);
    out.setNode(core_.id().value);
    out.setDevice(entry.device);
    out.setRole(wire::to_wire(entry.role));
    out.setKvBlocks(context.kv().blocks);
    out.setBlockSize(context.kv().block_size);
    out.setMaxBatchedTokens(entry.options.max_batched_tokens);
    out.setMaxSequences(entry.options.max_sequences);
    out.setMemoryUsedBytes(memory_used(entry.device));
    out.setWeightsBytes(entry.load.bytes);
    if (entry.load.bytes > 0 && comes_from_a_node(entry.load.kind)) out.setWeightsFromNode(entry.load.from.value);
    out.setWeightsPath(path_of(entry.load.kind));
    out.setDeviceWeights(context.weights_from());
    out.setStartedMs(to_ms(wire::now(self_) - entry.ordered));
    auto parts = out.initParts();
    parts.setPlanMs(to_ms(entry.load.planned));
    parts.setWeightsMs(to_ms(entry.load.took));
    parts.setAllocateMs(made.allocate_ms);
    parts.setWarmUpMs(made.warm_up_ms);
    const auto& endpoints = set_.machine.transport->endpoints();
    wire::write(out.initEndpoints(static_cast<unsigned>(endpoints.size())), endpoints);
    out.setDrainUs(static_cast<std::uint32_t>(std::min(to_s(entry.drained) * 1e6, 4e9)));
    out.setWeightsComing(entry.base == weights_base::arriving);
  });
  wire::tell(self_, cluster_, message, entry.actor);
}

} // namespace hflex::node
