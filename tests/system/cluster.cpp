#include "tests/system/cluster.hpp"
#include <algorithm>
#include <set>
#include <sstream>

namespace hflex::test {

ended run_hflex(std::vector<std::string> words, std::vector<std::string> environment, std::string input) {
  words.insert(words.begin(), HFLEX_PROGRAM);
  process p{{std::move(words), std::move(environment), std::move(input)}};
  auto code = p.wait_exit();
  return {code, p.text(stream::out), p.text(stream::err)};
}

// ---- jobs ----

std::vector<job> some_jobs(unsigned count, unsigned tokens) {
  static const std::vector<std::string> starts{"It is a truth universally acknowledged, that",
      "\"My dear Mr. Bennet,\" said", "Anne",
      "The ball at Netherfield had been talked of by everybody for a fortnight, and Elizabeth, who"};
  std::vector<job> jobs;
  for (unsigned i = 0; i < count; ++i) {
    auto prompt = starts[i % starts.size()];
    // Every fifth is long: it spans many KV blocks before it decodes at all.
    if (i % 5 == 4)
      for (int n = 0; n < 12; ++n) prompt += " " + starts[static_cast<std::size_t>(n) % starts.size()];
    jobs.push_back({prompt, tokens, i % 2 == 1 ? 0.8 : 0.0, i + 1});
  }
  return jobs;
}

std::string json_lines(const std::vector<job>& jobs) {
  std::string lines;
  for (const auto& j : jobs) {
    json line{{"prompt", j.prompt}, {"max_tokens", j.max_tokens}, {"ignore_eos", true}, {"temperature", j.temperature},
        {"top_p", 0.95}, {"seed", j.seed}};
    lines += line.dump() + "\n";
  }
  return lines;
}

std::vector<json> records(const std::string& out) {
  std::vector<json> list;
  std::istringstream in{out};
  for (std::string line; std::getline(in, line);) list.push_back(json::parse(line));
  auto number = [](const json& j) {
    return j["id"].is_string() ? std::stoul(j["id"].get<std::string>().substr(1)) : 0UL;
  };
  std::stable_sort(list.begin(), list.end(), [&](const json& a, const json& b) { return number(a) < number(b); });
  return list;
}

std::vector<std::vector<int>> tokens_of(const std::vector<json>& jobs) {
  std::vector<std::vector<int>> all;
  for (const auto& j : jobs) all.push_back(j.at("token_ids").get<std::vector<int>>());
  return all;
}

void check_all_finished(const std::vector<json>& jobs, std::size_t count) {
  std::set<std::string> ids;
  for (const auto& j : jobs) {
    INFO(j.dump());
    CHECK(j["outcome"] == "finished");
    CHECK(j["token_ids"].size() == j["output_tokens"]);
    CHECK(ids.insert(j["id"].dump()).second);
  }
  CHECK(jobs.size() == count);
}

// ---- cluster ----

cluster::cluster(const cluster_options& o) : options_(o) {
  auto environment = o.head_environment;
  environment.push_back("HFLEX_INSTANCE_COMPUTE=" + o.compute);
  head_ = std::make_unique<process>(
      command{{HFLEX_PROGRAM, "head", "--port", "0", "--mode", o.mode, "--model", o.model, "--expect-nodes",
                  std::to_string(std::max<std::size_t>(1, o.agents.size()))},
          environment, {}});
  auto line = head_->wait_line(stream::out, "head listens on ");
  head_address_ = line.substr(line.rfind(' ') + 1);
  watch_ = start({"topology", "--watch", "-o", "json"});
  watch_->wait_line(stream::out, "\"nodes\"");
  for (const auto& name : o.agents) start_agent(name);
  if (!o.agents.empty()) wait_ready(o.mode == "disaggregated" ? 2 : 1);
}

std::uint16_t cluster::port() const {
  return static_cast<std::uint16_t>(std::stoul(head_address_.substr(head_address_.rfind(':') + 1)));
}

process& cluster::start_agent(const std::string& name) {
  auto& slot = agents_[name];
  slot.reset();
  std::vector<std::string> words{
      HFLEX_PROGRAM, "agent", "--join", head_address_, "--name", name, "--devices", options_.devices};
  words.insert(words.end(), options_.agent_words.begin(), options_.agent_words.end());
  if (options_.hosts_apart) words.insert(words.end(), {"--host-id", "host-" + name});
  slot = std::make_unique<process>(command{std::move(words), options_.agent_environment, {}});
  slot->wait_line(stream::out, "agent " + name + " joins");
  until("node " + name + " up", [&](const json& t) { return node_named(t, name).value("state", "") == "up"; });
  return *slot;
}

std::vector<std::string> cluster::with_head(std::vector<std::string> words) const {
  words.insert(words.end(), {"--head", head_address_});
  return words;
}

ended cluster::run(std::vector<std::string> words, std::string input) const {
  return run_hflex(with_head(std::move(words)), {}, std::move(input));
}

std::unique_ptr<process> cluster::start(std::vector<std::string> words, std::string input) const {
  words.insert(words.begin(), HFLEX_PROGRAM);
  return std::make_unique<process>(command{with_head(std::move(words)), {}, std::move(input)});
}

void cluster::wait_ready(unsigned instances) const {
  auto done = run({"ready", "--instances", std::to_string(instances), "--for-s", "25"});
  INFO(done.err << "\n" << head_->text(stream::err));
  REQUIRE(done.code == 0);
}

json cluster::topology() const {
  auto done = run({"topology", "-o", "json"});
  INFO(done.err);
  REQUIRE(done.code == 0);
  return json::parse(done.out);
}

json cluster::until(const std::string& what, const std::function<bool(const json&)>& wanted) {
  auto deadline = std::chrono::steady_clock::now() + patience;
  while (true) {
    auto heard = watch_->text(stream::out).size(); // before the question: an event that it misses ends the wait below
    auto now = topology();
    if (wanted(now)) return now;
    if (std::chrono::steady_clock::now() > deadline)
      throw std::runtime_error("the topology never had: " + what + "\n" + run({"topology"}).out + "\n-- events:\n" +
                               watch_->text(stream::out) + "\n-- head:\n" + head_->text(stream::err));
    watch_->wait_size(stream::out, heard + 1, std::chrono::milliseconds{200});
  }
}

std::vector<json> cluster::submit(const std::vector<job>& jobs) const {
  auto p = start_submit(jobs);
  return finish(*p);
}

std::unique_ptr<process> cluster::start_submit(const std::vector<job>& jobs) const {
  return start({"submit", "-", "-o", "json"}, json_lines(jobs));
}

std::vector<json> cluster::finish(process& submit) {
  auto code = submit.wait_exit();
  INFO(submit.text(stream::err));
  CHECK(code == 0);
  return records(submit.text(stream::out));
}

std::unique_ptr<process> cluster::start_witness() const {
  auto witness = start({"submit", "-p", "Emma", "--max-tokens", "900", "--ignore-eos"});
  witness->wait_output(
      stream::out, [](std::string_view text) { return text.size() > 100; }, "some text");
  return witness;
}

// ---- topology ----

json instance_of_role(const json& topology, const std::string& role) {
  for (const auto& a : topology["actors"])
    if (a["kind"] == "instance" && a["role"] == role && a["state"] == "ready") return a;
  return nullptr;
}

json node_named(const json& topology, const std::string& name) {
  for (const auto& n : topology["nodes"])
    if (n["name"] == name) return n;
  return json::object();
}

std::string holder_of(const json& topology, const std::string& role) {
  auto instance = instance_of_role(topology, role);
  if (instance.is_null()) return "";
  for (const auto& n : topology["nodes"])
    if (n["id"] == instance["node"]) return n["name"];
  return "";
}

std::size_t ready_instances(const json& topology) {
  const auto& actors = topology["actors"];
  return static_cast<std::size_t>(std::count_if(
      actors.begin(), actors.end(), [](const json& a) { return a["kind"] == "instance" && a["state"] == "ready"; }));
}

bool at_rest(const json& topology) {
  const auto& actors = topology["actors"];
  return std::all_of(actors.begin(), actors.end(), [](const json& a) {
    return a["kind"] != "instance" ||
           (a["running"] == 0 && a["waiting"] == 0 && a["kv_blocks_free"] == a["kv_blocks_total"]);
  });
}

} // namespace hflex::test
