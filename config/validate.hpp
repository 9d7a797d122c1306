// The rules between values: what no single value can break alone. Called by the loader when every value is right by
// itself.
#pragma once
#include "config/loader.hpp"

namespace hflex::config {

/// Adds one fault per broken rule, at the place of the value that should change.
void check_together(const loaded_config& from, const std::vector<std::string_view>& policies, fault_list& faults);

/// "localhost", "127.x.y.z" and "::1".
bool is_loopback(std::string_view host);

} // namespace hflex::config
