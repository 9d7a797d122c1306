// The rules between values: what no single value can break alone.
#pragma once
#include "config/loader.hpp"

namespace hflex::config {

/// Adds one fault per broken rule, at the place of the value that should change. A rule about a value that is at fault
/// already is not asked: one wrong value would be told of twice.
void check_together(const loaded_config& from, const std::vector<std::string_view>& policies, fault_list& faults);

/// "localhost", "127.x.y.z" and "::1".
bool is_loopback(std::string_view host);

} // namespace hflex::config
