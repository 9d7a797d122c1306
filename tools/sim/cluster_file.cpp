#include "tools/sim/cluster_file.hpp"
#include "config/config.hpp"
#include "config/rows.hpp"
#include "config/yaml_file.hpp"
#include <algorithm>
#include <array>
#include <filesystem>
#include <fmt/ranges.h>
#include <iterator>
#include <set>
#include <tuple>

namespace hflex::sim {

namespace {

using namespace config::rules;
using config::describe;
using config::fault_list;
using config::origin_map;
using config::reading;
using config::row;
using config::scalar;
using config::shown;
using std::string_view;
namespace fs = std::filesystem;
namespace yaml = config::yaml;

constexpr std::array role_words{string_view{"prefill"}, string_view{"decode"}, string_view{"mixed"}};
constexpr double million = 1e6;

#define RULE(r) [] { return r; }
#define FIELD(f)                                                                                                       \
  [](auto& of) -> auto& { return of.f; } // NOLINT(bugprone-macro-parentheses)

// ---- the device ----
struct device_file {
  std::string profile; ///< only inside a cluster file
  config::step_profile measured;
  device_profile sizes;
};

const std::vector<row<device_file>>& profile_rows() {
  static const std::vector<row<device_file>> rows = [] {
    auto all = config::step_profile_rows<device_file>(FIELD(measured), false);
    std::vector<row<device_file>> more{
        scalar<device_file>("name", RULE(text), FIELD(sizes.name), "What tables and plots call it."),
        scalar<device_file>("step_noise", RULE(real(0, 1)), FIELD(sizes.step_noise),
            "Standard deviation of measured/expected step times."),
        scalar<device_file>(
            "kv_tokens", RULE(whole(1, 1e12)), FIELD(sizes.kv_tokens), "Tokens that its KV memory holds."),
        scalar<device_file>("kv_bytes_per_token", RULE(whole(1, 1e9)), FIELD(sizes.kv_bytes_per_token),
            "KV bytes of one token, all layers."),
        scalar<device_file>(
            "weight_bytes", RULE(whole(1, 1e14)), FIELD(sizes.weight_bytes), "Weights of one instance."),
        scalar<device_file>(
            "devices", RULE(whole(1, 1024)), FIELD(sizes.devices), "Accelerators that one instance occupies."),
        scalar<device_file>("max_batched_tokens", RULE(whole(1, million)), FIELD(sizes.max_batched_tokens),
            "Most tokens in one step, prefill and decode together."),
        scalar<device_file>("max_sequences", RULE(whole(1, 65536)), FIELD(sizes.max_sequences),
            "Sequences that one instance runs at a time."),
        scalar<device_file>("max_context", RULE(whole(1, 1e8)), FIELD(sizes.max_context),
            "Tokens of prompt and answer together that the model can hold."),
    };
    std::move(more.begin(), more.end(), std::back_inserter(all));
    return all;
  }();
  return rows;
}

const std::vector<row<device_file>>& device_rows() {
  static const std::vector<row<device_file>> rows = [] {
    auto all = profile_rows();
    all.push_back(scalar<device_file>("profile", RULE(text), FIELD(profile), "Name or file of a device profile."));
    return all;
  }();
  return rows;
}

/// What must be known of a device in the end, whoever says it.
constexpr std::array step_keys{string_view{"step_time.c0_ms"}, string_view{"step_time.c1_ms"},
    string_view{"step_time.m0"}, string_view{"step_time.c2_ms"}, string_view{"step_time.c3_ms"},
    string_view{"step_time.c4_ms"}};
constexpr std::array size_keys{
    string_view{"kv_tokens"}, string_view{"kv_bytes_per_token"}, string_view{"weight_bytes"}};

template <class Keys>
void require(const reading& in, yaml::position at, const origin_map& known, string_view prefix, const Keys& keys) {
  for (string_view key : keys) {
    if (known.contains(key) || in.origins.contains(fmt::format("{}{}", prefix, key))) continue;
    const auto r = std::find_if(
        profile_rows().begin(), profile_rows().end(), [&](const row<device_file>& x) { return x.key == key; });
    in.faults.add({in.at(at), fmt::format("{}{}", prefix, key), expectation(r->accepts),
        "no such key, nor one in a profile", ""});
  }
}

void read_profile_file(const std::string& file, fault_list& faults, origin_map& origins, device_file& out) {
  const reading context{config::layer::file, file, config::folder_of(file), faults, origins};
  const auto text_of_file = config::read_file(file, faults);
  if (!text_of_file) return;
  const auto tree = config::parse_yaml(*text_of_file, context);
  if (!tree) return;
  reading in = context;
  config::read_table<device_file>(in, *tree, profile_rows(), "", out);
  if (faults.empty()) require(in, tree->at, {}, "", step_keys);
}

/// Where profiles are looked for by name.
std::vector<std::string> profile_folders(const std::string& cluster_folder) {
  return {cluster_folder, config::resolve_path(cluster_folder, "../profiles"), "config/profiles"};
}

/// The file that `named` stands for, or nothing and a fault.
std::optional<std::string> find_profile(const reading& in, const yaml::node& named, const std::string& at) {
  if (named.text.find('/') != std::string::npos || named.text.ends_with(".yaml"))
    return config::resolve_path(in.directory, named.text);
  std::set<std::string> known;
  for (const std::string& folder : profile_folders(in.directory)) {
    std::error_code ignored;
    const fs::path file = fs::path{folder} / (named.text + ".yaml");
    if (fs::exists(file, ignored)) return file.string();
    if (folder == in.directory) continue; // full of cluster files
    for (fs::directory_iterator i(folder, ignored), end; i != end; i.increment(ignored))
      if (i->path().extension() == ".yaml") known.insert(i->path().stem().string());
  }
  const std::vector<string_view> names(known.begin(), known.end());
  in.faults.add({in.at(named.at), at, fmt::format("a profile's file or name, one of {}", fmt::join(names, ", ")),
      shown(named.text), did_you_mean(named.text, names)});
  return std::nullopt;
}

void read_device(reading& in, const yaml::node& n, const std::string& at, cluster& out) {
  if (n.kind != yaml::node_kind::map) {
    in.faults.add({in.at(n.at), at, "a section with profile, or step_time, kv_tokens, ...", describe(n), ""});
    return;
  }
  device_file device;
  origin_map in_profile;
  bool whole_profile = true;
  for (const yaml::node& child : n.children) {
    if (child.key != "profile" || child.kind != yaml::node_kind::scalar) continue;
    const auto file = find_profile(in, child, at + ".profile");
    fault_list faults;
    if (file) read_profile_file(*file, faults, in_profile, device);
    whole_profile = file && faults.empty();
    for (config::fault& f : faults.take()) {
      if (f.where.line == 0) f.hint = fmt::format("named in {}", to_string(in.at(child.at)));
      in.faults.add(std::move(f));
    }
    break;
  }
  fault_list own;
  reading inside{in.from, in.source, in.directory, own, in.origins};
  config::read_table<device_file>(inside, n, device_rows(), at + ".", device);
  const bool whole = whole_profile && own.empty();
  for (config::fault& f : own.take()) in.faults.add(std::move(f));
  if (whole) { // a key that is wrong is not also missing
    require(in, n.at, in_profile, at + ".", step_keys);
    require(in, n.at, in_profile, at + ".", size_keys);
  }
  out.device = device.sizes;
  out.device.steps = device.measured.step_time;
  const auto& [measured_on, model] = std::tie(device.measured.device, device.measured.model);
  if (out.device.name.empty())
    out.device.name = fmt::format("{}{}{}", measured_on, measured_on.empty() || model.empty() ? "" : ", ", model);
  in.origins[at] = in.at(n.at);
}

// ---- the fleet ----
const std::vector<row<fleet_group>>& fleet_rows() {
  static const std::vector<row<fleet_group>> rows{
      scalar<fleet_group>("role", RULE(words(role_words)), FIELD(role), "What the instances do.", true),
      scalar<fleet_group>("count", RULE(whole(1, 100'000)), FIELD(count), "How many of them.", true),
  };
  return rows;
}

void read_fleet(reading& in, const yaml::node& n, const std::string& at, std::vector<fleet_group>& out) {
  if (n.kind != yaml::node_kind::list || n.children.empty()) {
    in.faults.add({in.at(n.at), at, "a list of {role, count}", describe(n), ""});
    return;
  }
  for (std::size_t i = 0; i < n.children.size(); ++i)
    config::read_table<fleet_group>(in, n.children[i], fleet_rows(), fmt::format("{}[{}].", at, i), out.emplace_back());
  in.origins[at] = in.at(n.at);
}

// ---- the cluster ----
const std::vector<row<cluster>>& cluster_rows() {
  constexpr double most_bytes_per_s = 1e15;
  static const std::vector<row<cluster>> rows{
      scalar<cluster>("name", RULE(text), FIELD(name), "What tables and plots call it.", true),
      {"device", text, "Model and accelerator of every instance.", nullptr, nullptr, read_device, true},
      {"collocated", text, "Instances in mode collocated.", nullptr, nullptr,
          [](reading& in, const yaml::node& n, const std::string& at, cluster& out) {
            read_fleet(in, n, at, out.collocated);
          }},
      {"disaggregated", text, "Instances in mode disaggregated.", nullptr, nullptr,
          [](reading& in, const yaml::node& n, const std::string& at, cluster& out) {
            read_fleet(in, n, at, out.disaggregated);
          }},
      scalar<cluster>(
          "instances_per_node", RULE(whole(1, 1024)), FIELD(instances_per_node), "Instances that share a host.", true),
      scalar<cluster>("block_size", RULE(whole(1, 1024)), FIELD(block_size), "Tokens in one KV block."),
      scalar<cluster>("links.same_node.bytes_per_s", RULE(real(1, most_bytes_per_s)), FIELD(same_node.bytes_per_s),
          "Between instances of one node, per instance and direction.", true),
      scalar<cluster>("links.same_node.latency_us", RULE(us(0, 60 * million)), FIELD(same_node.latency),
          "Of the first byte.", true),
      scalar<cluster>("links.network.bytes_per_s", RULE(real(1, most_bytes_per_s)), FIELD(network.bytes_per_s),
          "Between nodes, per instance and direction.", true),
      scalar<cluster>(
          "links.network.latency_us", RULE(us(0, 60 * million)), FIELD(network.latency), "Of the first byte.", true),
      scalar<cluster>(
          "links.control_latency_us", RULE(us(0, 60 * million)), FIELD(control_latency), "Of one control message."),
      scalar<cluster>(
          "start.spawn_s", RULE(seconds(0, day_s)), FIELD(start.spawn), "Process and device context.", true),
      scalar<cluster>("start.warm_up_s", RULE(seconds(0, day_s)), FIELD(start.warm_up),
          "After the weights, until the first step.", true),
      scalar<cluster>("start.disk_bytes_per_s", RULE(real(1, most_bytes_per_s)), FIELD(start.disk_bytes_per_s),
          "Weights of one instance from disk to device.", true),
      scalar<cluster>("start.host_cache_bytes_per_s", RULE(real(1, most_bytes_per_s)),
          FIELD(start.host_cache_bytes_per_s), "The same from the node's memory.", true),
      scalar<cluster>("start.link_up_ms", RULE(ms(0, hour_ms)), FIELD(start.link_up),
          "Opening the KV links of a new instance.", true),
      scalar<cluster>("start.role_flip_ms", RULE(ms(0, hour_ms)), FIELD(start.role_flip),
          "A change of role, beyond the drain.", true),
      scalar<cluster>("price_per_device_hour", RULE(real(0, million)), FIELD(price_per_device_hour),
          "Of one accelerator, in any currency."),
      scalar<cluster>(
          "scaling.min_instances", RULE(whole(0, 100'000)), FIELD(min_instances), "Scaling keeps at least these."),
      scalar<cluster>(
          "scaling.max_instances", RULE(whole(1, 100'000)), FIELD(max_instances), "Scaling keeps at most these."),
  };
  return rows;
}

#undef RULE
#undef FIELD

/// The rules between values.
struct checker {
  const cluster& c;
  const reading& in;

  void expect(bool holds, const std::string& key, std::string expected, std::string found) const {
    if (holds) return;
    const auto set = in.origins.find(key);
    in.faults.add({set == in.origins.end() ? config::origin{config::layer::file, in.source, 0, 0} : set->second, key,
        std::move(expected), std::move(found), ""});
  }

  void fleet(const std::string& key, const std::vector<fleet_group>& groups, bool collocated) const {
    if (groups.empty()) return;
    std::uint64_t prefill = 0, decode = 0, mixed = 0;
    for (const fleet_group& g : groups)
      (g.role == instance_role::prefill ? prefill : g.role == instance_role::decode ? decode : mixed) += g.count;
    const std::string found = fmt::format("{} prefill, {} decode, {} mixed", prefill, decode, mixed);
    if (collocated)
      expect(prefill + decode == 0, key, "mixed instances only", found);
    else
      expect(prefill > 0 && decode > 0, key, "prefill and decode instances", found);
    const std::uint64_t all = prefill + decode + mixed;
    expect(all >= c.min_instances && all <= c.max_instances, key,
        fmt::format("from scaling.min_instances = {} to scaling.max_instances = {} instances", c.min_instances,
            c.max_instances),
        fmt::format("{}", all));
  }

  void all() const {
    expect(!c.collocated.empty() || !c.disaggregated.empty(), "collocated", "instances here or in disaggregated",
        "neither");
    expect(c.min_instances <= c.max_instances, "scaling.min_instances",
        fmt::format("at most max_instances = {}", c.max_instances), fmt::format("{}", c.min_instances));
    fleet("collocated", c.collocated, true);
    fleet("disaggregated", c.disaggregated, false);
    expect(c.device.max_batched_tokens >= c.device.max_sequences, "device.max_batched_tokens",
        fmt::format("at least max_sequences = {}: every one may decode in a step", c.device.max_sequences),
        fmt::format("{}", c.device.max_batched_tokens));
    expect(c.device.kv_tokens >= c.block_size, "device.kv_tokens", fmt::format("at least a block of {}", c.block_size),
        fmt::format("{}", c.device.kv_tokens));
    const auto& s = c.device.steps;
    expect(s.c0_ms + s.c1_ms + s.c2_ms + s.c3_ms + s.c4_ms > 0, "device", "steps that take time", "none");
  }
};

} // namespace

cluster_result read_cluster(const std::string& text_of_file, const std::string& file) {
  fault_list faults;
  origin_map origins;
  cluster out;
  reading in{config::layer::file, file, config::folder_of(file), faults, origins};
  if (const auto tree = config::parse_yaml(text_of_file, in)) {
    if (tree->kind == yaml::node_kind::nothing)
      faults.add({in.at(tree->at), "", "a section with name, device, ...", "nothing", ""});
    config::read_table<cluster>(in, *tree, cluster_rows(), "", out);
  }
  // What one wrong value does to the others would only be noise.
  if (faults.empty()) checker{out, in}.all();
  if (!faults.empty()) return tl::unexpected(faults.take());
  return out;
}

cluster_result load_cluster(const std::string& file) {
  fault_list faults;
  if (const auto text_of_file = config::read_file(file, faults)) return read_cluster(*text_of_file, file);
  return tl::unexpected(faults.take());
}

tl::expected<device_profile, std::vector<config::fault>> load_device_profile(const std::string& file) {
  fault_list faults;
  origin_map origins;
  device_file device;
  read_profile_file(file, faults, origins, device);
  if (!faults.empty()) return tl::unexpected(faults.take());
  device.sizes.steps = device.measured.step_time;
  return device.sizes;
}

} // namespace hflex::sim
