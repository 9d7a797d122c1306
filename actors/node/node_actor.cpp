#include "actors/node/node_shell_actor.hpp"

namespace hflex::node {

wire::node_agent_actor::behavior_type node_shell(wire::node_agent_actor::pointer self, shell_settings settings) {
  wire::outlive_errors(self);
  auto sh = std::make_shared<shell>(self, std::move(settings));
  sh->feed(begin{});
  using wire::on;
  return {
      on<s::StartInstance>([sh](s::StartInstance::Reader in) { sh->start(in); }),
      on<s::StopInstance>([sh](s::StopInstance::Reader in) { sh->stop(in); }),
      on<s::ChangeRole>([sh](s::ChangeRole::Reader in) {
        sh->feed(change_role{instance_id{in.getInstance()}, wire::from_wire(in.getTo())});
      }),
      on<s::LoadFrom>([sh](s::LoadFrom::Reader in) { sh->load(in); }),
      on<s::StopLoad>([sh](s::StopLoad::Reader in) { sh->stop_load(in); }),
      on<s::GrantWeights>([sh](s::GrantWeights::Reader in) { sh->grant(in); }),
      on<s::GiveDeviceWeights>([sh](s::GiveDeviceWeights::Reader in) { sh->give_to_devices(in); }),
      on<s::DeviceTicket>([sh](s::DeviceTicket::Reader in) { sh->device_ticket(in); }),
      on<s::SourceSlack>([sh](s::SourceSlack::Reader in) { sh->slack(in); }),
      on<s::WeightsGiveUp>([sh](s::WeightsGiveUp::Reader in) { sh->give_up(in); }),
      on<s::Rejoin>([sh](s::Rejoin::Reader) { sh->feed(head_lost{"the head counts this life of the node as lost"}); }),
      on<s::Retired>([sh](s::Retired::Reader in) { sh->retired(instance_id{in.getInstance()}); }),
      on<s::NodeLeave>([sh](s::NodeLeave::Reader) { sh->feed(shut_down{}); }),
      on<s::Tick>([sh](s::Tick::Reader) { sh->tick_now(); }),
      [sh](const msg<s::WeightsProgress>& message) { sh->pass_on(message); },
      on<s::WeightsLoaded>([sh](s::WeightsLoaded::Reader in) { sh->region_loaded(in); }),
      on<s::WeightsFailed>([sh](s::WeightsFailed::Reader in) { sh->region_failed(in); }),
      on<s::WeightsArriving>([sh](s::WeightsArriving::Reader in) { sh->region_arriving(in); }),
      on<s::ContextReady>([sh](s::ContextReady::Reader in) { sh->context_made(in); }),
  };
}

} // namespace hflex::node
