// What the cluster actor tells of an instance that a node agent says is ready.
#pragma once
#include "actors/cluster/weights_outlook.hpp"
#include "actors/wire/convert.hpp"
#include "actors/wire/shell.hpp"
#include <string>

namespace hflex::cluster {

/// What is told of an instance once it is admitted.
struct instance_news {
  wire::msg<wire::schema::InstanceUp> up;
  wire::msg<wire::schema::StartParts> parts;
  double started_ms{};
  std::string weights_path;
  std::string device_weights;
  std::uint32_t drain_us{};
};

inline instance_news announcement(wire::schema::InstanceReady::Reader in) {
  auto up = wire::msg<wire::schema::InstanceUp>::make([&](wire::schema::InstanceUp::Builder out) {
    out.setInstance(in.getInstance());
    out.setNode(in.getNode());
    out.setDevice(in.getDevice());
    out.setRole(in.getRole());
    out.setKvBlocks(in.getKvBlocks());
    out.setBlockSize(in.getBlockSize());
    out.setMaxBatchedTokens(in.getMaxBatchedTokens());
    out.setMaxSequences(in.getMaxSequences());
    if (in.getWeightsComing()) out.setWeightsDueMs(static_cast<std::uint32_t>(to_ms(weights_outlook::unknown)));
  });
  auto parts = wire::msg<wire::schema::StartParts>::make([&](wire::schema::StartParts::Builder out) {
    const auto p = in.getParts();
    out.setPlanMs(p.getPlanMs());
    out.setWeightsMs(p.getWeightsMs());
    out.setAllocateMs(p.getAllocateMs());
    out.setWarmUpMs(p.getWarmUpMs());
  });
  return {up, parts, in.getStartedMs(), wire::read(in.getWeightsPath()), wire::read(in.getDeviceWeights()),
      in.getDrainUs()};
}

/// How its weights came, to the host and to a device that has others' weights from a device.
inline std::string weights_transport(wire::schema::InstanceReady::Reader in) {
  const auto device = wire::read(in.getDeviceWeights());
  const bool from_device = !device.empty() && device.rfind("host memory", 0) != 0;
  if (in.getWeightsPath() == "network") return from_device ? "tcp, nccl" : "tcp"; // the host's copy comes all the same
  return from_device ? "cuda" : "shm";
}

} // namespace hflex::cluster
