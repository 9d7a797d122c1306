// Draws a topology snapshot: for people (tree), for Graphviz (dot), for scripts (JSON). Pure functions of the snapshot,
// used by `hflex topology` and the dashboard. Names come from other hosts: each format escapes them, control characters
// included.
#pragma once
#include "actors/cluster/topology.hpp"
#include <string>

namespace hflex::cluster {

struct tree_style {
  bool colour{false}; ///< ANSI colours: only on a terminal
};

/// Nodes with devices, the actors on each, then links. Ends in a newline.
std::string render_tree(const snapshot& s, const tree_style& style);
/// One digraph: a cluster per node, an edge per link. Ends in a newline.
std::string render_dot(const snapshot& s);
/// The document of `hflex topology -o json`, on one line, without a newline. An actor that has no node, role or device
/// has null there.
std::string render_json(const snapshot& s);
/// One line for `hflex topology --watch`, without a newline or a time.
std::string render_event(const cluster_event& e);

} // namespace hflex::cluster
