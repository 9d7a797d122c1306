// Expected failures are values. An errc is named for what the caller does about it.
#pragma once
#include <fmt/format.h>
#include <string>
#include <tl/expected.hpp>
#include <utility>

namespace hflex {

enum class errc {
  retry,   ///< the same call may succeed in a moment (busy, no free block, not yet linked)
  reroute, ///< this place cannot do it, another one may (instance gone, transfer failed)
  reject,  ///< the input is at fault; the message says what was expected (bad file, bad config, bad request)
  fatal,   ///< this component cannot go on (out of memory, broken invariant in a device)
};

struct error {
  errc code{errc::fatal};
  std::string message;
};

template <class T>
using result = tl::expected<T, error>;

/// `return fail(errc::reject, "{}: expected {}", file, what);`
template <class... Ts>
[[nodiscard]] tl::unexpected<error> fail(errc code, fmt::format_string<Ts...> text, Ts&&... xs) {
  return tl::unexpected<error>(error{code, fmt::format(text, std::forward<Ts>(xs)...)});
}

/// Passes a failure on to the caller's own result type.
[[nodiscard]] inline tl::unexpected<error> pass(error e) { return tl::unexpected<error>(std::move(e)); }

std::string_view to_string(errc code);

} // namespace hflex
