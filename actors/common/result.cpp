#include "actors/common/result.hpp"

namespace hflex {

std::string_view to_string(errc code) {
  switch (code) {
  case errc::retry:
    return "retry";
  case errc::reroute:
    return "reroute";
  case errc::reject:
    return "reject";
  case errc::fatal:
    return "fatal";
  }
  return "fatal";
}

} // namespace hflex
