// Strong identifiers: an instance is never mistaken for a node. Plain values; 0 means "none" everywhere.
#pragma once
#include <compare>
#include <cstdint>
#include <functional>
#include <string>

namespace hflex {

template <class Tag, class Rep>
struct strong_id {
  Rep value{};
  constexpr explicit operator bool() const noexcept { return value != 0; }
  friend constexpr auto operator<=>(const strong_id&, const strong_id&) = default;
};

/// One submitted request; unique for the life of a head.
using request_id = strong_id<struct request_tag, std::uint64_t>;
/// One model copy on one device (one incarnation: a replacement gets a new id).
using instance_id = strong_id<struct instance_tag, std::uint32_t>;
/// One host's agent. A node keeps its id when it re-joins under its name; `incarnation` tells its lives apart.
using node_id = strong_id<struct node_tag, std::uint32_t>;
/// One submitting client connection.
using client_id = strong_id<struct client_tag, std::uint64_t>;
/// One KV hand-over from a prefill to a decode instance.
using transfer_id = strong_id<struct transfer_tag, std::uint64_t>;

/// One device of one node (index as the node counts them).
struct device_id {
  node_id node;
  std::uint32_t index{};
  friend constexpr auto operator<=>(const device_id&, const device_id&) = default;
};

/// A request and which try of it: everything an earlier attempt still says is ignored by its number.
struct request_key {
  request_id id;
  std::uint32_t attempt{};
  friend constexpr auto operator<=>(const request_key&, const request_key&) = default;
};

/// "r17", "i3", "n2": how people see ids in tables, logs and commands.
std::string to_string(request_id id);
std::string to_string(instance_id id);
std::string to_string(node_id id);
std::string to_string(device_id id);    ///< "n2/0"
std::string to_string(request_key key); ///< "r17#1"

} // namespace hflex

template <class Tag, class Rep>
struct std::hash<hflex::strong_id<Tag, Rep>> {
  std::size_t operator()(const hflex::strong_id<Tag, Rep>& id) const noexcept { return std::hash<Rep>{}(id.value); }
};
template <>
struct std::hash<hflex::request_key> {
  std::size_t operator()(const hflex::request_key& key) const noexcept {
    return std::hash<std::uint64_t>{}(key.id.value * 0x9e3779b97f4a7c15ULL + key.attempt);
  }
};
