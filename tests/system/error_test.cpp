// What people hear when they or their files are at fault: which exit code, and what to repair.
#include "tests/system/cluster.hpp"
#include <csignal>
#include <filesystem>

namespace hflex::test::error_test {

namespace {

/// Its second thread runs: it is past its command line.
void until_at_work(const process& p) {
  const auto end = std::chrono::steady_clock::now() + patience;
  const auto threads = "/proc/" + std::to_string(p.pid()) + "/task";
  while (std::distance(std::filesystem::directory_iterator{threads}, {}) < 2) {
    REQUIRE(std::chrono::steady_clock::now() < end);
    std::this_thread::yield();
  }
}

} // namespace

TEST_CASE("every fault of a configuration is told at once, with its line, and nothing is started") {
  temp_dir dir;
  dir.write("bad.yaml",
      "listen:\n  port: 70000\nmode: collocatd\nscheduler:\n  max_queud: 5\nmembership:\n  lost_after_ms: soon\n");
  for (const auto* verb : {"head", "up"}) {
    auto done = run_hflex({verb, "-C", dir.file("bad.yaml"), "--model", demo_model()});
    CHECK(done.code == 2);
    CHECK(done.out.empty());
    check_says(
        done.err, {"bad.yaml:2:", "70000", "bad.yaml:3:", "collocated", "bad.yaml:5:", "max_queued", "bad.yaml:7:"});
  }
}

TEST_CASE("a value from the environment or a flag is at fault by the name that the user knows") {
  auto done = run_hflex({"head", "--port", "notaport"}, {"HFLEX_MEMBERSHIP_LOST_AFTER_MS=-1"});
  CHECK(done.code == 2);
  check_says(done.err, {"--port", "HFLEX_MEMBERSHIP_LOST_AFTER_MS"});
}

TEST_CASE("a word that a command line does not know, or a number beyond its range, is told with what was expected") {
  const std::vector<std::pair<std::vector<std::string>, std::vector<std::string_view>>> lines{
      {{"topolgy"}, {"hflex has no command or option 'topolgy'", "did you mean 'topology'?"}},
      {{"model", "x"}, {"model has no command or option 'x'", "expected one of info, check, logits"}},
      {{"devices", "-o", "yaml"}, {"expected one of json, text, found 'yaml'"}},
      {{"topology", "-o", "text"}, {"expected one of dot, json, tree, found 'text'"}},
      {{"submit", "-p", "a", "--seed", "-1"}, {"--seed", "found '-1'"}},
      {{"submit", "-p", "a", "--ttft-ms", "nan"}, {"--ttft-ms", "found 'nan'"}},
      {{"simulate", "--trace", "t", "--cluster", "c", "--load", "nan"}, {"--load", "0.001 to 1000", "found 'nan'"}},
      {{"simulate", "--trace", "t", "--cluster", "c", "--rate-scale", "nan"}, {"--rate-scale", "found 'nan'"}}};
  for (const auto& [words, told] : lines) {
    INFO(words.front());
    const auto done = run_hflex(words);
    CHECK(done.code == 2);
    CHECK(done.out.empty());
    for (const auto part : told) check_says(done.err, {part});
  }
}

TEST_CASE("output that cannot be written is a failure, and a reader that leaves ends the command") {
  const auto shell = [](const std::string& line) {
    process p{command{{"/bin/sh", "-c", line, HFLEX_PROGRAM}, {}, {}}};
    const auto code = p.wait_exit();
    return ended{code, p.text(stream::out), p.text(stream::err)};
  };
  const auto full = shell("\"$0\" devices > /dev/full");
  CHECK(full.code == 1);
  check_says(full.err, {"standard output cannot be written", "No space left"});
  cluster c{{"collocated", "f32", {"a"}, {}, {}}};
  CHECK(shell("\"$0\" topology --watch --head " + c.head() + " | head -n 1").out.starts_with("epoch"));
  CHECK(shell("\"$0\" topology --events --watch --head " + c.head() + " | head -n 1").code == 0);
  const auto jobs =
      shell("{ echo '{\"prompt\": \"Emma\", \"max_tokens\": 1}'; for i in $(seq 64); do "
            "echo '{\"prompt\": \"Emma\", \"max_tokens\": 900, \"ignore_eos\": true}'; done; } | \"$0\" submit - "
            "--head " +
            c.head() + " | head -n 1");
  check_says(jobs.err, {"is not taken any more", "of 65 jobs had ended"});
  c.until("no job left behind", at_rest);
}

TEST_CASE("a model folder that is not there is named, and the head does not start") {
  auto done = run_hflex({"head", "--port", "0", "--model", "/nowhere/at/all"});
  CHECK(done.code != 0);
  CHECK(done.out.empty());
  check_says(done.err, {"/nowhere/at/all"});
}

TEST_CASE("weights that end too early are found by the check, and by the instance that would serve them") {
  model_copy model;
  auto file = model.file("model.safetensors");
  std::filesystem::resize_file(file, std::filesystem::file_size(file) / 2);
  auto check = run_hflex({"model", "check", model.path()});
  CHECK(check.code == 1);
  check_says(check.err, {"model.safetensors"});
  const auto up = run_hflex({"up", "--port", "0", "--model", model.path()});
  CHECK(up.code == 2);
  CHECK(up.out.empty());
  check_says(up.err, {"model.safetensors", "the model will not load"});

  cluster_options o{"collocated", "f32", {}, {}, {}};
  o.model = model.path();
  cluster c{o};
  c.start_agent("a");
  c.head_process().wait_line(stream::err, "model.safetensors");
  CHECK(ready_instances(c.topology()) == 0);
  CHECK(node_named(c.topology(), "a")["state"] == "up"); // the agent outlives the failed start
  CHECK(c.run({"ready", "--for-s", "0.2"}).code == 1);
}

TEST_CASE("a CPU that is to compute in f16 says so, and the agent lives on") {
  cluster c{{"collocated", "f16", {}, {}, {}}};
  c.start_agent("a");
  c.head_process().wait_line(stream::err, "compute f16: the CPU engine computes in bf16 or f32");
  CHECK(node_named(c.topology(), "a")["state"] == "up");
}

TEST_CASE("a CUDA device that is not there ends up, and an agent, with the reason") {
  if (std::filesystem::exists("/dev/nvidia0") || std::filesystem::exists("/dev/dxg")) {
    WARN("this machine has a GPU: not tried");
    return;
  }
  temp_dir dir;
  dir.write("gpu.yaml", "listen: {port: 0}\nagents:\n  - {name: a, devices: [\"cuda:0\"]}\n");
  const auto up = run_hflex({"up", "-C", dir.file("gpu.yaml"), "--model", demo_model()});
  CHECK(up.code == 2);
  CHECK(up.out.empty()); // no head that listens, and is gone again
  check_says(up.err, {"device cuda:0: no CUDA device", "use cpu:N or auto"});
  const auto agent = run_hflex({"agent", "--join", "127.0.0.1:1", "--devices", "cuda:0"});
  CHECK(agent.code != 0);
  check_says(agent.err, {"device cuda:0: no CUDA device"});
}

TEST_CASE("a request that cannot be served is refused with its reason") {
  cluster c{{"collocated", "f32", {"a"}, {}, {}}};
  std::string words;
  for (int i = 0; i < 3000; ++i) words += "truth ";
  auto large = c.run({"submit", "-p", words});
  CHECK(large.code == 1);
  check_says(large.err, {"refused", "tokens", "1024"});
  auto chat = c.run({"submit", "--chat", "-p", "Who wrote Emma?", "--system", "Be brief."});
  CHECK(chat.code == 1);
  check_says(chat.err, {"refused", "no chat template"});
  CHECK(c.run({"submit", "-p", "Emma", "--system", "Be brief."}).code == 2); // it needs --chat
  auto nothing = c.run({"submit", "-p", "Emma", "-p", ""});
  CHECK(nothing.code == 2);
  check_says(nothing.err, {"-p", "not empty"});
  auto unknown = c.run({"submit", "-p", "Emma", "--slo", "interactiv"});
  CHECK(unknown.code == 1);
  check_says(unknown.err, {"interactiv", "interactive", "standard", "batch"});
  auto file = c.run({"submit", "-"}, "{\"prompt\": \"a\"}\n{\"promt\": \"b\"}\n");
  CHECK(file.code == 2);
  check_says(file.err, {"stdin:2", "prompt"});
  auto mixed = c.run({"submit", "-", "-o", "json"},
      "{\"prompt\": \"a\", \"slo\": \"none\"}\n{\"prompt\": \"b\", \"max_tokens\": 5}\n");
  CHECK(mixed.code == 1);
  auto lines = records(mixed.out);
  REQUIRE(lines.size() == 2);
  CHECK(lines[0]["outcome"] == "refused");
  CHECK(lines[1]["outcome"] == "finished");
}

TEST_CASE("a second head on one port says so and ends, and the first one goes on") {
  cluster c{{"collocated", "f32", {"a"}, {}, {}}};
  auto second = run_hflex({"head", "--port", std::to_string(c.port()), "--model", demo_model()});
  CHECK(second.code == 1);
  check_says(second.err, {std::to_string(c.port()), "another head"});
  check_all_finished(c.submit(some_jobs(2, 10)), 2);
}

TEST_CASE("without a head every command that needs one says what to start") {
  std::uint16_t port = 0;
  {
    cluster c{{"collocated", "f32", {}, {}, {}}};
    port = c.port();
  } // nobody listens there any more
  auto head = "127.0.0.1:" + std::to_string(port);
  std::vector<std::vector<std::string>> commands{{"submit", "-p", "Emma"}, {"jobs"}, {"cancel", "r1"}, {"wait", "r1"},
      {"topology"}, {"ready"}, {"role", "i1", "mixed"}, {"drain", "i1"}};
  for (auto words : commands) {
    INFO(words[0]);
    words.insert(words.end(), {"--head", head});
    auto done = run_hflex(words);
    CHECK(done.code == 1);
    CHECK(done.out.empty());
    check_says(done.err, {head, "hflex up"});
  }
}

TEST_CASE("a command that waits or computes ends at once when it is interrupted") {
  cluster c{{"collocated", "f32", {}, {}, {}}};
  const auto waits = c.start({"ready", "--for-s", "600"});
  process computes{command{{HFLEX_PROGRAM, "simulate", "--cluster", HFLEX_SOURCE_DIR "/config/sim/h100x8-8b.yaml",
                               "--slo-class", "standard", "--policy", "hyperflexis,round_robin", "--jobs", "2",
                               "--trace", "synthetic:poisson,rate=100,duration=3000,prompt=2000,output=500"},
      {}, {}}};
  for (auto* p : {waits.get(), &computes}) {
    until_at_work(*p);
    p->signal(SIGINT);
    CHECK(p->wait_exit() == -SIGINT);
  }
}

TEST_CASE("a submit whose head dies ends with an error") {
  cluster c{{"collocated", "f32", {"a"}, {}, {}}};
  auto witness = c.start_witness();
  c.head_process().signal(SIGKILL);
  CHECK(witness->wait_exit() == 1);
  check_says(witness->text(stream::err), {"the head is gone"});
}

TEST_CASE("a wait whose head dies ends with an error, and not when its time is over") {
  cluster c{{"collocated", "f32", {}, {}, {}}}; // no agent: the job waits
  REQUIRE(c.run({"submit", "--detach", "-p", "Emma"}).out == "r1\n");
  auto waits = c.start({"wait", "r1", "--for-s", "600"});
  until_at_work(*waits);
  REQUIRE(c.run({"jobs"}).code == 0); // meanwhile it asks
  c.head_process().signal(SIGKILL);
  CHECK(waits->wait_exit() == 1);
  check_says(waits->text(stream::err), {"head"});
}

} // namespace hflex::test::error_test
