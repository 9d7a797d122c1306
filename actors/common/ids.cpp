#include "actors/common/ids.hpp"

namespace hflex {

std::string to_string(request_id id) { return "r" + std::to_string(id.value); }
std::string to_string(instance_id id) { return "i" + std::to_string(id.value); }
std::string to_string(node_id id) { return "n" + std::to_string(id.value); }
std::string to_string(device_id id) { return to_string(id.node) + "/" + std::to_string(id.index); }
std::string to_string(request_key key) { return to_string(key.id) + "#" + std::to_string(key.attempt); }

} // namespace hflex
