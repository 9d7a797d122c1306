#include "config/schema.hpp"
#include "config/rows.hpp"
#include <algorithm>
#include <array>
#include <fmt/ranges.h>

namespace hflex::config {

namespace {

using std::string_view;
using namespace rules;

#define RULE(r) [] { return r; }
#define FIELD(f)                                                                                                       \
  [](auto& of) -> auto& { return of.f; } // NOLINT(bugprone-macro-parentheses)

// ---- words, in the order of their enumerators ----
constexpr std::array role_words{string_view{"prefill"}, string_view{"decode"}, string_view{"mixed"}};
constexpr std::array mode_words{string_view{"collocated"}, string_view{"disaggregated"}};
constexpr std::array late_words{string_view{"serve_late"}, string_view{"shed"}};
constexpr std::array isa_words{
    string_view{"portable"}, string_view{"avx2"}, string_view{"avx512"}, string_view{"avx512_bf16"}};
constexpr std::array log_words{string_view{"trace"}, string_view{"debug"}, string_view{"info"}, string_view{"warning"},
    string_view{"error"}, string_view{"off"}};

// ---- fleet ----
const std::vector<row<fleet_entry>>& fleet_rows() {
  static const std::vector<row<fleet_entry>> rows{
      scalar<fleet_entry>("role", RULE(words(role_words)), FIELD(role), "What the instances do.", true),
      scalar<fleet_entry>("count", RULE(whole(1, 1024)), FIELD(count), "How many of them."),
  };
  return rows;
}

bool is_list(reading& in, const yaml::node& n, const std::string& at, string_view expected) {
  if (n.kind == yaml::node_kind::list) return true;
  in.faults.add({in.at(n.at), at, std::string{expected}, describe(n), ""});
  return false;
}

void read_fleet(reading& in, const yaml::node& n, const std::string& at, cluster_config& out) {
  if (!is_list(in, n, at, "a list of {role, count}")) return;
  out.fleet.clear();
  for (std::size_t i = 0; i < n.children.size(); ++i)
    read_table<fleet_entry>(in, n.children[i], fleet_rows(), fmt::format("{}[{}].", at, i), out.fleet.emplace_back());
  in.origins[at] = in.at(n.at);
}

// ---- agents ----
void read_devices(reading& in, const yaml::node& n, const std::string& at, agent_config& out) {
  if (!is_list(in, n, at, "a list of devices")) return;
  if (n.children.empty()) in.faults.add({in.at(n.at), at, "at least one device", "an empty list", ""});
  out.devices.clear();
  const row<agent_config> item{
      "", device, "", [](agent_config& to, value&& v) { to.devices.push_back(std::move(v.text)); }};
  for (std::size_t i = 0; i < n.children.size(); ++i)
    read_scalar(in, n.children[i], item, fmt::format("{}[{}]", at, i), out);
}

const std::vector<row<agent_config>>& agent_rows() {
  static const std::vector<row<agent_config>> rows{
      scalar<agent_config>("name", RULE(name), FIELD(name), "Unique in the cluster.", true),
      {"devices", device, "What its instances run on.", nullptr,
          [](const agent_config& a) { return fmt::format("[\"{}\"]", fmt::join(a.devices, "\", \"")); }, read_devices},
      scalar<agent_config>("transport.shm", RULE(boolean), FIELD(transport.shm), "Shared memory within a host."),
      scalar<agent_config>("transport.tcp", RULE(boolean), FIELD(transport.tcp), "TCP between hosts."),
      scalar<agent_config>("transport.listen_host", RULE(text), FIELD(transport.listen_host), "Where TCP listens."),
      scalar<agent_config>("transport.host_id", RULE(or_empty(name)), FIELD(transport.host_id),
          "Agents with the same share memory; empty finds out."),
  };
  return rows;
}

void read_agents(reading& in, const yaml::node& n, const std::string& at, cluster_config& out) {
  if (!is_list(in, n, at, "a list of {name, devices, transport}")) return;
  if (n.children.empty()) in.faults.add({in.at(n.at), at, "at least one agent", "an empty list", ""});
  out.agents.clear();
  std::map<std::string, std::size_t> names;
  for (std::size_t i = 0; i < n.children.size(); ++i) {
    agent_config& agent = out.agents.emplace_back();
    const std::string mine = fmt::format("{}[{}].", at, i);
    read_table<agent_config>(in, n.children[i], agent_rows(), mine, agent);
    const auto named = in.origins.find(mine + "name");
    if (named == in.origins.end()) continue; // faulted above
    if (const auto [other, is_new] = names.emplace(agent.name, i); !is_new)
      in.faults.add({named->second, mine + "name", "a name of its own",
          fmt::format("{}, which is {}[{}]'s", shown(agent.name), at, other->second), ""});
  }
  in.origins[at] = in.at(n.at);
}

// ---- SLO classes ----
const std::vector<row<slo_class>>& class_rows() {
  static const std::vector<row<slo_class>> rows{
      scalar<slo_class>("ttft_ms", RULE(ms(0.001, 24 * hour_ms)), FIELD(targets.ttft), "Arrival to first token.", true),
      scalar<slo_class>(
          "tpot_ms", RULE(ms(0.001, hour_ms)), FIELD(targets.tpot), "Mean time per token after it.", true),
      scalar<slo_class>("e2e_ms", RULE(ms(0.001, 24 * hour_ms)), FIELD(targets.e2e), "Arrival to last token."),
      scalar<slo_class>("weight", RULE(real(0.001, 1000)), FIELD(targets.weight), "Worth of one attained request."),
      scalar<slo_class>("when_late", RULE(words(late_words)), FIELD(targets.when_late), "Once it cannot be attained."),
      scalar<slo_class>("source", RULE(or_empty(text)), FIELD(source), "Where the numbers come from."),
  };
  return rows;
}

void read_classes(reading& in, const yaml::node& n, const std::string& at, std::vector<slo_class>& out) {
  if (n.kind != yaml::node_kind::map || n.children.empty()) {
    in.faults.add({in.at(n.at), at, "a section NAME: {ttft_ms, tpot_ms, ...} per class", describe(n), ""});
    return;
  }
  out.clear();
  std::map<string_view, yaml::position> seen;
  for (const yaml::node& child : n.children) {
    if (!check(name, child.key, false))
      in.faults.add({in.at(child.key_at), at, expectation(name), shown(child.key), ""});
    if (const auto [first, is_new] = seen.emplace(child.key, child.key_at); !is_new)
      in.faults.add({in.at(child.key_at), fmt::format("{}.{}", at, child.key), "each class once",
          fmt::format("it again after line {}", first->second.line), ""});
    slo_class& c = out.emplace_back();
    c.name = child.key;
    if (child.kind == yaml::node_kind::map)
      read_table<slo_class>(in, child, class_rows(), fmt::format("{}.{}.", at, child.key), c);
    else
      in.faults.add({in.at(child.at), fmt::format("{}.{}", at, child.key), "a section with ttft_ms and tpot_ms",
          describe(child), ""});
  }
  in.origins[at] = in.at(n.at);
}

// ---- the lists of the cluster, as YAML ----
template <class T>
std::string written_list(const std::vector<T>& items, const std::vector<row<T>>& rows) {
  std::vector<std::string> each;
  for (const T& item : items) each.push_back(written_table<T>(item, rows));
  return fmt::format("[{}]", fmt::join(each, ", "));
}

std::string written_classes(const cluster_config& c) {
  if (!c.slo.classes_file.empty()) return {};
  std::vector<std::string> each;
  for (const slo_class& one : c.slo.classes)
    each.push_back(fmt::format("{}: {}", plain_yaml(one.name), written_table<slo_class>(one, class_rows())));
  return fmt::format("{{{}}}", fmt::join(each, ", "));
}

std::string written_fleet(const cluster_config& c) {
  return written_list(c.fleet.empty() ? default_fleet(c.mode) : c.fleet, fleet_rows());
}

// ---- the cluster ----
using cluster_row = row<cluster_config>;

const std::vector<cluster_row>& cluster_rows() {
  constexpr double million = 1'000'000;
  static const std::vector<cluster_row> rows{
      scalar<cluster_config>("listen.host", RULE(text), FIELD(listen.host), "Address of the head's control port."),
      scalar<cluster_config>(
          "listen.port", RULE(whole(0, 65535)), FIELD(listen.port), "The head's control port; 0 = any free one."),
      scalar<cluster_config>("listen.private_network", RULE(boolean), FIELD(listen.private_network),
          "Allow addresses other than loopback. Nodes do not authenticate each other: only where everybody may be "
          "trusted."),
      scalar<cluster_config>("model", RULE(or_empty(path)), FIELD(model),
          "Checkpoint: a folder in Hugging Face format (config.json, model.safetensors, tokenizer.json), or a GGUF "
          "file."),
      scalar<cluster_config>("mode", RULE(words(mode_words)), FIELD(mode),
          "collocated: instances do prefill and decode; disaggregated: each instance does one of them."),
      {"fleet", text, "Instances to start with, as a list of {role: prefill|decode|mixed, count: N}.", nullptr,
          written_fleet, read_fleet},
      scalar<cluster_config>("scheduler.policy", RULE(name), FIELD(scheduler.policy), "Scheduling policy."),
      scalar<cluster_config>("scheduler.max_queued", RULE(whole(1, million)), FIELD(scheduler.max_queued),
          "Requests that wait for an instance; more are shed."),
      scalar<cluster_config>("scheduler.max_wait_ms", RULE(ms(1, 24 * hour_ms)), FIELD(scheduler.max_wait),
          "A best-effort request that has waited this long goes first."),
      scalar<cluster_config>("scheduler.safety", RULE(real(0, 0.9)), FIELD(scheduler.safety),
          "Share of every time budget kept back against errors of the step-time model."),
      scalar<cluster_config>("scheduler.knobs", RULE(or_empty(text)), FIELD(scheduler.knobs),
          "The policy's own numbers: NAME=NUMBER,... as in hflex simulate --knob."),
      scalar<cluster_config>("scaling.policy", RULE(name), FIELD(scaling.policy),
          "Scaling policy: fixed keeps the fleet as it is; hyperflexis follows the load."),
      scalar<cluster_config>("scaling.dry_run", RULE(boolean), FIELD(scaling.dry_run),
          "Only say what it would do (hflex explain --scaling)."),
      scalar<cluster_config>("scaling.min_instances", RULE(whole(0, million)), FIELD(scaling.min_instances),
          "Instances of all roles together at least; 0 lets an idle fleet go."),
      scalar<cluster_config>("scaling.max_instances", RULE(whole(1, million)), FIELD(scaling.max_instances),
          "Instances of all roles together at most."),
      scalar<cluster_config>("scaling.lead_time_s", RULE(seconds(0.001, day_s)), FIELD(scaling.lead_time),
          "How long a start takes, until one was measured."),
      scalar<cluster_config>("scaling.hand_hold_s", RULE(seconds(0, day_s)), FIELD(scaling.hand_hold),
          "How long the scaling policy leaves a role alone that was changed by hand."),
      scalar<cluster_config>("scaling.knobs", RULE(or_empty(text)), FIELD(scaling.knobs),
          "The policy's own numbers: NAME=NUMBER,... as in hflex simulate --scaling-knob."),
      scalar<cluster_config>("router.max_in_flight", RULE(whole(1, million)), FIELD(router.max_in_flight),
          "Accepted and unfinished requests; more are refused."),
      scalar<cluster_config>("router.max_attempts", RULE(whole(1, 100)), FIELD(router.max_attempts),
          "Tries of one request, the first included."),
      scalar<cluster_config>("router.request_timeout_s", RULE(seconds(0.001, 7 * day_s)), FIELD(router.request_timeout),
          "Arrival to the end of a request, whatever it is."),
      scalar<cluster_config>("router.stage_timeout_s", RULE(seconds(0.001, day_s)), FIELD(router.stage_timeout),
          "Longest silence of one stage of a request before it is tried again."),
      scalar<cluster_config>("router.max_history", RULE(whole(0, million)), FIELD(router.max_history),
          "Ended requests that jobs and explain still know."),
      scalar<cluster_config>("instance.compute", RULE(words(gpu::compute_names)), FIELD(instance.compute),
          "Arithmetic of activations: bf16 is fast, f32 the reference, f16 for CUDA devices only."),
      scalar<cluster_config>("instance.threads", RULE(whole(0, 1024)), FIELD(instance.threads),
          "Compute threads of one instance; 0 shares the device's cores evenly."),
      scalar<cluster_config>("instance.isa", RULE(or_empty(words(isa_words))), FIELD(instance.isa),
          "Forces one set of CPU kernels; empty takes the best that this CPU has."),
      scalar<cluster_config>("instance.block_size", RULE(whole(1, 1024)), FIELD(instance.block_size),
          "Tokens in one KV block; a multiple of 16."),
      scalar<cluster_config>("instance.profile", RULE(or_empty(path)), FIELD(instance.profile),
          "Step times that `hflex profile` measured; empty starts from a guess. Either is corrected by every step."),
      scalar<cluster_config>("instance.kv_memory_mib", RULE(whole(1, 4 * million)), FIELD(instance.kv_memory_mib),
          "KV pool of one instance in MiB, used when kv_blocks is 0."),
      scalar<cluster_config>("instance.kv_blocks", RULE(whole(0, 1000 * million)), FIELD(instance.kv_blocks),
          "KV pool of one instance in blocks; 0 derives it from kv_memory_mib."),
      scalar<cluster_config>("instance.max_batched_tokens", RULE(whole(1, million)), FIELD(instance.max_batched_tokens),
          "Most tokens in one step, prefill and decode together."),
      scalar<cluster_config>("instance.max_sequences", RULE(whole(1, 65536)), FIELD(instance.max_sequences),
          "Sequences that one instance runs at a time."),
      scalar<cluster_config>("instance.max_waiting", RULE(whole(1, million)), FIELD(instance.max_waiting),
          "Sequences that wait inside one instance; more are refused."),
      scalar<cluster_config>("instance.prefix_cache", RULE(boolean), FIELD(instance.prefix_cache),
          "Keep the KV blocks of prompts, so that one that begins like another pays for the rest only."),
      scalar<cluster_config>("membership.heartbeat_interval_ms", RULE(ms(1, hour_ms)),
          FIELD(membership.heartbeat_interval), "How often a node agent says that it is alive."),
      scalar<cluster_config>("membership.suspect_after_ms", RULE(ms(1, hour_ms)), FIELD(membership.suspect_after),
          "Silence after which a node gets no new work."),
      scalar<cluster_config>("membership.lost_after_ms", RULE(ms(1, hour_ms)), FIELD(membership.lost_after),
          "Silence after which a node is taken for dead and its requests are tried elsewhere."),
      scalar<cluster_config>("membership.expect_nodes", RULE(whole(1, 1024)), FIELD(membership.expect_nodes),
          "Nodes that the first placement waits for, a few seconds at most, so that instances spread over them."),
      scalar<cluster_config>("membership.start_deadline_s", RULE(seconds(0.1, day_s)), FIELD(membership.start_deadline),
          "Longest start of an instance, weights included."),
      scalar<cluster_config>("membership.drain_deadline_s", RULE(seconds(0, day_s)), FIELD(membership.drain_deadline),
          "Longest wait for an instance's residents before they are moved or tried elsewhere."),
      scalar<cluster_config>("weights.from_neighbours", RULE(boolean), FIELD(weights.from_neighbours),
          "Take the weights from an instance that has them before reading the disk."),
      scalar<cluster_config>("weights.fetch_deadline_s", RULE(seconds(0.01, day_s)), FIELD(weights.fetch_deadline),
          "Longest try with one source of weights; then comes the next."),
      scalar<cluster_config>("weights.across_hosts", RULE(boolean), FIELD(weights.across_hosts),
          "A host that has not read the model yet takes what the others found under the same path."),
      scalar<cluster_config>("weights.serve_while_loading", RULE(boolean), FIELD(weights.serve_while_loading),
          "CPU instances serve while their weights still come from another host: a step waits for each layer."),
      scalar<cluster_config>("weights.host_cache_mib", RULE(whole(0, 16 * million)), FIELD(weights.host_cache_mib),
          "Weights that no instance uses any more stay in an agent's memory up to this; the next start is warm."),
      scalar<cluster_config>("weights.max_mib_per_s", RULE(whole(0, million)), FIELD(weights.max_mib_per_s),
          "Weights that one agent gives to other hosts, at most; 0 is what the link takes."),
      {"agents", text,
          "Node agents, as a list of {name, devices: [auto|cpu:N|cuda:I], transport: {shm, tcp, listen_host}}.",
          nullptr, [](const cluster_config& c) { return written_list(c.agents, agent_rows()); }, read_agents},
      scalar<cluster_config>("log.level", RULE(words(log_words)), FIELD(log), "Least severe message that is shown."),
      scalar<cluster_config>("slo.classes_file", RULE(or_empty(path)), FIELD(slo.classes_file),
          "A file of SLO classes, instead of slo.classes."),
      {"slo.classes", text, "SLO classes in place: NAME: {ttft_ms, tpot_ms, e2e_ms, weight, when_late, source}.",
          nullptr, written_classes,
          [](reading& in, const yaml::node& n, const std::string& at, cluster_config& out) {
            read_classes(in, n, at, out.slo.classes);
          }},
      scalar<cluster_config>(
          "slo.default_class", RULE(name), FIELD(slo.default_class), "Class of a request that names none."),
  };
  return rows;
}

// ---- step-time profiles ----
const std::vector<row<step_profile>>& profile_rows() {
  static const auto rows = step_profile_rows<step_profile>(
      [](auto& of) -> auto& { return of; }, true);
  return rows;
}

#undef RULE
#undef FIELD

std::string environment_name(string_view key) {
  std::string variable = "HFLEX_";
  for (char c : key) variable += c == '.' ? '_' : static_cast<char>(c >= 'a' && c <= 'z' ? c - 'a' + 'A' : c);
  return variable;
}

} // namespace

const std::vector<key_info>& keys() {
  static const std::vector<key_info> all = [] {
    std::vector<key_info> made;
    for (const cluster_row& r : cluster_rows())
      made.push_back({r.key, environment_name(r.key), r.read ? std::string{"YAML"} : expectation(r.accepts),
          r.get(cluster_config{}), r.doc});
    return made;
  }();
  return all;
}

std::string value_of(const cluster_config& config, std::size_t i) { return cluster_rows().at(i).get(config); }

void read_cluster(reading& in, const yaml::node& root, cluster_config& out) {
  read_table<cluster_config>(in, root, cluster_rows(), "", out);
}

void read_key(reading& in, string_view key, const std::string& given, cluster_config& out) {
  const auto& rows = cluster_rows();
  const auto r = std::find_if(rows.begin(), rows.end(), [&](const cluster_row& x) { return x.key == key; });
  if (!r->read) {
    yaml::node n;
    n.kind = yaml::node_kind::scalar;
    n.text = given;
    read_scalar(in, n, *r, std::string{key}, out);
  } else if (auto tree = yaml::parse(given); tree) {
    r->read(in, *tree, std::string{key}, out);
  } else {
    in.faults.add({in.at({}), std::string{key}, tree.error().expected, tree.error().found, ""});
  }
}

void read_class_file(reading& in, const yaml::node& root, std::vector<slo_class>& out) {
  struct class_file {
    std::vector<slo_class> classes;
  };
  static const std::vector<row<class_file>> rows{{"classes", text, "", nullptr, nullptr,
      [](reading& r, const yaml::node& n, const std::string& at, class_file& file) {
        read_classes(r, n, at, file.classes);
      },
      true}};
  class_file file;
  if (root.kind == yaml::node_kind::nothing)
    in.faults.add({in.at(root.at), "classes", "a section NAME: {ttft_ms, tpot_ms, ...} per class", "nothing", ""});
  read_table<class_file>(in, root, rows, "", file);
  out = std::move(file.classes);
}

void read_profile_file(reading& in, const yaml::node& root, step_profile& out) {
  if (root.kind == yaml::node_kind::nothing)
    in.faults.add({in.at(root.at), "step_time", "a section {c0_ms, c1_ms, m0, c2_ms, c3_ms, c4_ms}", "nothing", ""});
  read_table<step_profile>(in, root, profile_rows(), "", out);
}

std::string written_profile(const step_profile& profile) {
  std::string file = "# Step times of one device with one model, measured by `hflex profile`.\n";
  bool inside = false;
  for (const auto& r : profile_rows()) {
    const auto dot = r.key.find('.');
    if (dot != r.key.npos && !inside) file += fmt::format("{}:\n", r.key.substr(0, dot));
    inside = dot != r.key.npos;
    file += fmt::format(
        "{}{}: {} # {}\n", inside ? "  " : "", inside ? r.key.substr(dot + 1) : r.key, r.get(profile), r.doc);
  }
  return file;
}

} // namespace hflex::config
