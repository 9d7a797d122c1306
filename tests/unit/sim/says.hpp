// What a message says, for checks that show the whole message when it does not.
#pragma once
#include "tests/support/catch.hpp"
#include <string>
#include <string_view>

namespace hflex::sim {

inline bool says(const std::string& message, std::string_view part) {
  UNSCOPED_INFO("message: " << message << "\nexpected in it: " << part);
  return message.find(part) != std::string::npos;
}

} // namespace hflex::sim
