#include "config/validate.hpp"
#include "actors/common/nearest.hpp"
#include <algorithm>
#include <fmt/format.h>
#include <fmt/ranges.h>

namespace hflex::config {

namespace {

struct checker {
  const loaded_config& from;
  const fault_list known_bad; ///< faults of single values
  fault_list& faults;

  origin where(std::string_view key) const {
    const auto set = from.origins.find(key);
    return set == from.origins.end() ? origin{} : set->second;
  }

  /// What the rule is about besides `key`: `with`.
  void expect(bool holds, std::string key, std::initializer_list<std::string_view> with, std::string expected,
      std::string found, std::string hint = "") const {
    if (holds || known_bad.touch(key)) return;
    if (std::any_of(with.begin(), with.end(), [&](std::string_view k) { return known_bad.touch(k); })) return;
    faults.add({where(key), std::move(key), std::move(expected), std::move(found), std::move(hint)});
  }

  void fleet() const {
    const cluster_config& c = from.config;
    if (c.fleet.empty()) {
      expect(where("fleet").from == layer::built_in, "fleet", {}, "at least one instance", "an empty list");
      return;
    }
    std::uint64_t total = 0, prefill = 0, decode = 0;
    for (const fleet_entry& e : c.fleet) {
      total += e.count;
      prefill += e.role == instance_role::prefill ? e.count : 0;
      decode += e.role == instance_role::decode ? e.count : 0;
    }
    expect(total <= 1024, "fleet", {}, "at most 1024 instances", fmt::format("{}", total));
    const std::string found = fmt::format("{} prefill and {} decode", prefill, decode);
    if (c.mode == serving_mode::collocated)
      expect(prefill + decode == 0, "fleet", {"mode"}, "mixed instances only in mode collocated", found,
          "or set mode: disaggregated");
    else
      expect(prefill > 0 && decode > 0, "fleet", {"mode"}, "prefill and decode instances in mode disaggregated", found);
  }

  void times() const {
    const membership_config& m = from.config.membership;
    const auto ms = [](duration d) { return fmt::format("{} ms", to_ms(d)); };
    expect(m.suspect_after > m.heartbeat_interval, "membership.suspect_after_ms", {"membership.heartbeat_interval_ms"},
        "more than heartbeat_interval_ms = " + ms(m.heartbeat_interval), ms(m.suspect_after));
    expect(m.lost_after > m.suspect_after, "membership.lost_after_ms", {"membership.suspect_after_ms"},
        "more than suspect_after_ms = " + ms(m.suspect_after), ms(m.lost_after));
    const router_config& r = from.config.router;
    expect(r.stage_timeout <= r.request_timeout, "router.stage_timeout_s", {"router.request_timeout_s"},
        fmt::format("at most request_timeout_s = {} s", to_s(r.request_timeout)),
        fmt::format("{} s", to_s(r.stage_timeout)));
  }

  void sizes() const {
    const instance_config& i = from.config.instance;
    // The host device keeps KV in strips of 16 tokens.
    expect(i.block_size % 16 == 0, "instance.block_size", {}, "a multiple of 16", fmt::format("{}", i.block_size));
    expect(i.max_batched_tokens >= i.max_sequences, "instance.max_batched_tokens", {"instance.max_sequences"},
        fmt::format("at least max_sequences = {}: every one may decode in a step", i.max_sequences),
        fmt::format("{}", i.max_batched_tokens));
  }

  void scaling() const {
    const scaling_config& sc = from.config.scaling;
    expect(sc.min_instances <= sc.max_instances, "scaling.min_instances", {"scaling.max_instances"},
        fmt::format("at most max_instances = {}", sc.max_instances), fmt::format("{}", sc.min_instances));
  }

  void addresses() const {
    if (from.config.listen.private_network) return;
    const std::string expected = "a loopback address";
    const std::string hint =
        "nodes do not authenticate each other; listen.private_network: true where everybody may be trusted";
    expect(is_loopback(from.config.listen.host), "listen.host", {"listen.private_network"}, expected,
        shown(from.config.listen.host), hint);
    for (std::size_t i = 0; i < from.config.agents.size(); ++i) {
      const transport_config& t = from.config.agents[i].transport;
      const auto at = fmt::format("agents[{}].transport.", i), tcp = at + "tcp";
      expect(!t.tcp || is_loopback(t.listen_host), at + "listen_host", {"listen.private_network", tcp}, expected,
          shown(t.listen_host), hint);
    }
  }

  void names(const std::vector<std::string_view>& policies) const {
    const auto known = [](const auto& names, const std::string& name) {
      return std::find(names.begin(), names.end(), name) != names.end();
    };
    std::vector<std::string_view> classes;
    for (const slo_class& c : from.config.slo.classes) classes.push_back(c.name);
    const std::string& chosen = from.config.slo.default_class;
    expect(classes.empty() || known(classes, chosen), "slo.default_class", {"slo.classes", "slo.classes_file"},
        fmt::format("one of {}", fmt::join(classes, ", ")), shown(chosen), did_you_mean(chosen, classes));
    const std::string& policy = from.config.scheduler.policy;
    expect(policies.empty() || known(policies, policy), "scheduler.policy", {},
        fmt::format("one of {}", fmt::join(policies, ", ")), shown(policy), did_you_mean(policy, policies));
  }
};

} // namespace

bool is_loopback(std::string_view host) {
  const bool ipv4 = host.starts_with("127.") && host.find_first_not_of("0123456789.") == host.npos;
  return ipv4 || host == "localhost" || host == "::1";
}

void check_together(const loaded_config& from, const std::vector<std::string_view>& policies, fault_list& faults) {
  const checker c{from, faults, faults};
  c.fleet();
  c.times();
  c.sizes();
  c.scaling();
  c.addresses();
  c.names(policies);
}

} // namespace hflex::config
