#include "actors/cluster/topology_render.hpp"
#include "actors/cluster/json_writer.hpp"
#include <algorithm>
#include <array>
#include <cmath>
#include <fmt/format.h>

namespace hflex::cluster {

namespace {

/// A name from elsewhere as it may go to a terminal or into a dot label: no control characters, no broken UTF-8.
std::string plain(std::string_view text) {
  std::string shown;
  while (!text.empty()) {
    auto length = utf8_length(text);
    auto first = static_cast<unsigned char>(text.front());
    auto c1_control = length == 2 && first == 0xC2U && static_cast<unsigned char>(text[1]) < 0xA0U;
    if (length == 0 || first < 0x20U || first == 0x7FU || c1_control)
      shown += '?';
    else
      shown += text.substr(0, length);
    text.remove_prefix(std::max<std::size_t>(length, 1));
  }
  return shown;
}

std::string human_bytes(std::uint64_t bytes) {
  static constexpr std::array<const char*, 6> units{"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  if (bytes < 1024) return fmt::format("{} B", bytes);
  auto amount = static_cast<double>(bytes) / 1024.0;
  std::size_t unit = 0;
  for (; amount >= 1024.0 && unit + 1 < units.size(); ++unit) amount /= 1024.0;
  return fmt::format("{:.1f} {}", amount, units[unit]);
}

// ---- tree ----

enum class paint { bold, green, yellow, red, dim };

std::string painted(std::string text, paint how, const tree_style& style) {
  if (!style.colour) return text;
  static constexpr std::array<int, 5> codes{1, 32, 33, 31, 2};
  return fmt::format("\x1b[{}m{}\x1b[0m", codes[static_cast<std::size_t>(how)], text);
}

std::string state_text(const std::string& state, const tree_style& style) {
  auto shown = plain(state);
  if (state == "up" || state == "ready" || state == "running") return painted(shown, paint::green, style);
  if (state == "lost" || state == "failed") return painted(shown, paint::red, style);
  return painted(shown, paint::yellow, style);
}

struct branch {
  std::string text;
  std::vector<branch> below;
};

void draw(const std::vector<branch>& branches, const std::string& indent, std::string& out) {
  for (auto& b : branches) {
    auto last = &b == &branches.back();
    out += indent + (last ? "└─ " : "├─ ") + b.text + "\n";
    draw(b.below, indent + (last ? "   " : "│  "), out);
  }
}

std::string bar(std::uint64_t used, std::uint64_t total) {
  constexpr std::uint64_t cells = 10;
  auto share = total == 0 ? 0.0 : std::min(1.0, static_cast<double>(used) / static_cast<double>(total));
  auto full = static_cast<std::uint64_t>(std::lround(share * cells));
  std::string text;
  for (std::uint64_t i = 0; i < cells; ++i) text += i < full ? "█" : "░";
  return text;
}

std::string role_text(const actor_view& a) {
  return a.duty.empty() ? plain(a.role) : fmt::format("{} ({} for now)", plain(a.role), plain(a.duty));
}

branch actor_branch(const actor_view& a, const tree_style& style) {
  auto text = painted(plain(a.id), paint::bold, style);
  if (!a.role.empty()) text += "  " + role_text(a);
  if (!a.state.empty()) text += "  " + state_text(a.state, style);
  if (a.kind == "instance") {
    text += fmt::format("  running {}  waiting {}", a.running, a.waiting);
    if (a.kv_blocks_total > 0) {
      auto used = a.kv_blocks_total - std::min(a.kv_blocks_free, a.kv_blocks_total);
      text += fmt::format("  kv {} {}/{}", bar(used, a.kv_blocks_total), used, a.kv_blocks_total);
    }
    text += fmt::format("  step {:.2f} ms", a.step_ms_mean);
  }
  if (a.mailbox > 0) text += fmt::format("  mailbox {}", a.mailbox);
  return {text, {}};
}

branch device_branch(const device_view& d, const snapshot& s, const tree_style& style) {
  branch b{fmt::format("{}  {}{}{}  {} {} of {}", painted(plain(d.id), paint::bold, style), plain(d.kind),
               d.name.empty() ? "" : " ", plain(d.name), bar(d.memory_used_bytes, d.memory_bytes),
               human_bytes(d.memory_used_bytes), human_bytes(d.memory_bytes)),
      {}};
  for (auto& a : s.actors)
    if (a.device == d.id) b.below.push_back(actor_branch(a, style));
  return b;
}

/// Messages between processes are not counted: a number there would be wrong.
bool counted(const link_view& l) { return l.kind != "control"; }

branch node_branch(const node_view& n, const snapshot& s, const tree_style& style) {
  branch b{fmt::format("{}  {}  {}  {}", painted(plain(n.id), paint::bold, style), plain(n.name),
               painted(plain(n.address), paint::dim, style), state_text(n.state, style)),
      {}};
  if (n.weights_bytes > 0) b.text += "  weights " + human_bytes(n.weights_bytes);
  if (n.weights_idle_bytes > 0) b.text += fmt::format(" ({} cached)", human_bytes(n.weights_idle_bytes));
  auto shown_below = [&](const actor_view& a) {
    return std::any_of(n.devices.begin(), n.devices.end(), [&](const device_view& d) { return d.id == a.device; });
  };
  for (auto& a : s.actors)
    if (a.node == n.id && !shown_below(a)) b.below.push_back(actor_branch(a, style));
  for (auto& d : n.devices) b.below.push_back(device_branch(d, s, style));
  return b;
}

branch link_branch(const link_view& l) {
  auto text = fmt::format("{} → {}  {}  {}", plain(l.from), plain(l.to), l.kind, plain(l.transport));
  if (counted(l)) text += "  " + human_bytes(l.bytes_total);
  if (l.state == "opening" || l.state == "failed") text += "  " + l.state;
  if (l.bytes_total < l.bytes_expected)
    text += fmt::format(" of {}  {} loading", human_bytes(l.bytes_expected), bar(l.bytes_total, l.bytes_expected));
  return {text, {}};
}

// ---- dot ----

std::string dot_text(std::string_view text) {
  std::string escaped;
  for (auto c : plain(text)) {
    if (c == '"' || c == '\\') escaped += '\\';
    escaped += c;
  }
  return escaped;
}

void dot_actors(const snapshot& s, const std::string& node, std::string& out) {
  for (auto& a : s.actors) {
    if (a.node != node) continue;
    auto label = dot_text(a.id);
    if (!a.role.empty()) label += "\\n" + dot_text(role_text(a));
    if (!a.device.empty()) label += " on " + dot_text(a.device);
    label += "\\n" + dot_text(a.state);
    out += fmt::format("    \"{}\" [label=\"{}\"];\n", dot_text(a.id), label);
  }
}

const char* dot_line(const std::string& kind) {
  if (kind == "control") return "dotted";
  return kind == "weights" ? "dashed" : "solid";
}

// ---- JSON ----

/// Ids, roles and duties are never empty: an empty one means "none".
void id_or_null(json_writer& w, const char* key, const std::string& id) {
  w.key(key);
  id.empty() ? w.null() : w.value(id);
}

void json_node(json_writer& w, const node_view& n) {
  w.begin_object().key("id").value(n.id).key("name").value(n.name).key("address").value(n.address);
  w.key("state").value(n.state).key("weights_bytes").value(n.weights_bytes);
  w.key("weights_idle_bytes").value(n.weights_idle_bytes).key("devices").begin_array();
  for (auto& d : n.devices) {
    w.begin_object().key("id").value(d.id).key("kind").value(d.kind).key("memory_bytes").value(d.memory_bytes);
    w.key("memory_used_bytes").value(d.memory_used_bytes).end_object();
  }
  w.end_array().end_object();
}

void json_actor(json_writer& w, const actor_view& a) {
  w.begin_object().key("id").value(a.id).key("kind").value(a.kind);
  id_or_null(w, "node", a.node);
  id_or_null(w, "role", a.role);
  id_or_null(w, "duty", a.duty);
  id_or_null(w, "device", a.device);
  w.key("state").value(a.state).key("running").value(a.running).key("waiting").value(a.waiting);
  w.key("kv_blocks_total").value(a.kv_blocks_total).key("kv_blocks_free").value(a.kv_blocks_free);
  w.key("kv_blocks_cached").value(a.kv_blocks_cached).key("prefix_hit_ratio").value(a.prefix_hit_ratio);
  w.key("mailbox").value(a.mailbox).key("step_ms_mean").value(a.step_ms_mean).end_object();
}

void json_link(json_writer& w, const link_view& l) {
  w.begin_object().key("from").value(l.from).key("to").value(l.to).key("kind").value(l.kind);
  w.key("transport").value(l.transport).key("bytes_total");
  counted(l) ? w.value(l.bytes_total) : w.null();
  w.key("bytes_expected").value(l.bytes_expected).key("state").value(l.state).end_object();
}

} // namespace

std::string render_tree(const snapshot& s, const tree_style& style) {
  std::vector<branch> top;
  branch head{painted("head", paint::bold, style), {}};
  for (auto& a : s.actors)
    if (a.node.empty()) head.below.push_back(actor_branch(a, style));
  if (!head.below.empty()) top.push_back(std::move(head));
  for (auto& n : s.nodes) top.push_back(node_branch(n, s, style));
  if (!s.links.empty()) {
    branch links{painted("links", paint::bold, style), {}};
    for (auto& l : s.links) links.below.push_back(link_branch(l));
    top.push_back(std::move(links));
  }
  auto out = fmt::format(
      "epoch {}  nodes {}  actors {}  links {}\n", s.epoch, s.nodes.size(), s.actors.size(), s.links.size());
  draw(top, "", out);
  return out;
}

std::string render_dot(const snapshot& s) {
  std::string out = "digraph hflex {\n  rankdir=LR;\n  node [shape=box, style=rounded];\n";
  out += fmt::format("  label=\"epoch {}\";\n", s.epoch);
  out += "  subgraph \"cluster_head\" {\n    label=\"head\";\n";
  dot_actors(s, "", out);
  out += "  }\n";
  for (auto& n : s.nodes) {
    out += fmt::format("  subgraph \"cluster_{}\" {{\n    label=\"{} {} ({})\";\n", dot_text(n.id), dot_text(n.id),
        dot_text(n.name), dot_text(n.state));
    dot_actors(s, n.id, out);
    out += "  }\n";
  }
  for (auto& l : s.links)
    out += fmt::format("  \"{}\" -> \"{}\" [label=\"{} {}{}\", style={}];\n", dot_text(l.from), dot_text(l.to),
        dot_text(l.kind), dot_text(l.transport), counted(l) ? "\\n" + human_bytes(l.bytes_total) : "",
        dot_line(l.kind));
  return out + "}\n";
}

std::string render_json(const snapshot& s) {
  json_writer w;
  w.begin_object().key("epoch").value(s.epoch).key("nodes").begin_array();
  for (auto& n : s.nodes) json_node(w, n);
  w.end_array().key("actors").begin_array();
  for (auto& a : s.actors) json_actor(w, a);
  w.end_array().key("links").begin_array();
  for (auto& l : s.links) json_link(w, l);
  w.end_array().end_object();
  return w.take();
}

std::string render_event(const cluster_event& e) {
  auto text = fmt::format("epoch {}  {}  {}", e.epoch, to_string(e.what), plain(e.subject));
  return e.detail.empty() ? text : text + "  " + plain(e.detail);
}

} // namespace hflex::cluster
