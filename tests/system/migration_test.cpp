// Jobs that move between real processes while they decode.
#include "tests/system/cluster.hpp"

namespace hflex::test::migration_test {

namespace {

json job_of(const cluster& c, const std::string& id) {
  auto done = c.run({"jobs", id, "-o", "json"});
  REQUIRE(done.code == 0);
  return json::parse(done.out);
}

} // namespace

TEST_CASE("a long job that is moved midway has the text of the undisturbed one") {
  cluster c;
  const auto flipped = instance_of_role(c.topology(), "prefill")["id"].get<std::string>();
  REQUIRE(c.run({"role", flipped, "mixed"}).code == 0); // now both decode
  c.until("the instance mixed", [&](const json& t) { return instance_of_role(t, "mixed")["id"] == flipped; });
  const std::vector<std::string> words{
      "submit", "--detach", "-p", "Emma Woodhouse, handsome, clever, and rich", "--max-tokens", "900", "--ignore-eos"};
  auto finish = [&](const std::string& id) {
    auto end = c.run({"wait", id, "-o", "json"});
    REQUIRE(end.code == 0);
    return json::parse(end.out);
  };
  auto submit = [&] {
    auto accepted = c.run(words);
    REQUIRE(accepted.code == 0);
    return accepted.out.substr(0, accepted.out.find('\n'));
  };
  const auto undisturbed = finish(submit());
  CHECK(undisturbed["migrations"] == 0);

  auto load = c.start_submit(some_jobs(8, 600)); // so that it does not end before it is moved
  auto witness = c.start_witness();
  const auto id = submit();
  std::string from;
  c.until("decoding", [&](const json&) {
    auto job = job_of(c, id);
    from = job["decode_instance"];
    return job["output_tokens"] > 0;
  });
  const std::string to = from == "i1" ? "i2" : "i1";
  auto moved = c.run({"migrate", id, "--to", to});
  INFO(moved.err);
  CHECK(moved.code == 0);
  CHECK(moved.out == id + " decodes on " + to + " now\n");
  const auto end = finish(id);
  CHECK(end["text"] == undisturbed["text"]);
  CHECK(end["token_ids"] == undisturbed["token_ids"]);
  CHECK(end["migrations"] == 1);
  CHECK(end["retries"] == 0);
  CHECK(end["decode_instance"] == to);
  check_all_finished(cluster::finish(*load), 8);
  c.until("every KV block free", at_rest);

  auto again = c.run({"migrate", id, "--to", to});
  CHECK(again.code == 1);
  check_says(again.err, {id + " is not running"});
  CHECK(c.run({"migrate", "x", "--to", to}).code == 2);
  CHECK(c.run({"migrate", id, "--to", "n1"}).code == 2);
}

} // namespace hflex::test::migration_test
