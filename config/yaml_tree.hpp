// YAML text -> a plain tree that knows lines and columns. Built from yaml-cpp's parser events, not from its nodes, so
// that duplicate keys are seen, every value keeps its place, and a hostile file is refused while it is read: too large,
// too deep, too many values, anchors and aliases (a few lines can stand for gigabytes), tags, several documents.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <vector>

namespace hflex::config::yaml {

/// A place in the text; both count from 1.
struct position {
  std::uint32_t line{1};
  std::uint32_t column{1};
};

enum class node_kind : std::uint8_t { nothing, scalar, list, map };

struct node {
  node_kind kind{node_kind::nothing};
  position at;
  std::string text;   ///< of a scalar
  bool quoted{false}; ///< the scalar was written in quotes or as a block: it is text, not a number
  std::string key;    ///< of a map's child
  position key_at;
  std::vector<node> children; ///< of a list or map, in the order of the text; a map's keys may repeat
};

struct limits {
  std::size_t max_bytes{std::size_t{1} << 20U};
  std::size_t max_depth{16};
  std::size_t max_nodes{50'000};
};

/// Why a text is not taken as a whole.
struct refusal {
  position at;
  std::string expected;
  std::string found;
};

/// An empty text or document is a `nothing` node. Throws nothing but std::bad_alloc.
tl::expected<node, refusal> parse(const std::string& text, const limits& bounds = {});

} // namespace hflex::config::yaml
