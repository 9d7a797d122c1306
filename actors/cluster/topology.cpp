#include "actors/cluster/topology.hpp"

namespace hflex::cluster {

std::string_view to_string(change c) {
  switch (c) {
  case change::node_joined:
    return "node_joined";
  case change::node_left:
    return "node_left";
  case change::node_lost:
    return "node_lost";
  case change::node_suspect:
    return "node_suspect";
  case change::node_recovered:
    return "node_recovered";
  case change::actor_up:
    return "actor_up";
  case change::actor_down:
    return "actor_down";
  case change::actor_state:
    return "actor_state";
  case change::role_changed:
    return "role_changed";
  case change::link_opened:
    return "link_opened";
  case change::link_closed:
    return "link_closed";
  case change::link_opening:
    return "link_opening";
  case change::link_failed:
    return "link_failed";
  case change::weights_arrived:
    return "weights_arrived";
  }
  return "actor_state";
}

} // namespace hflex::cluster
