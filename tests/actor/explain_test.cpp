// Explanations through the shells: what `hflex explain` is told.
#include "tests/support/small_cluster.hpp"

namespace hflex::test::explain_test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

const std::string prompt = "It is a truth universally acknowledged";

struct asked : small_cluster {
  msg<s::Explanation> explain(std::uint64_t id) {
    return ask<msg<s::Explanation>>(
        head.scheduler, msg<s::ExplainRequest>::make([&](s::ExplainRequest::Builder out) { out.setId(id); }));
  }
  std::vector<std::string> story(std::uint64_t id) {
    auto answer = explain(id);
    auto in = answer.read();
    REQUIRE(in->isStory());
    std::vector<std::string> words;
    double last = 0;
    for (auto h : in->getStory().getHappenings()) {
      words.push_back(wire::read(h.getWhat()));
      CHECK(h.getAfterMs() >= last);
      last = h.getAfterMs();
    }
    return words;
  }
};

using words = std::vector<std::string>;

} // namespace

TEST_CASE_METHOD(asked, "a job's story is told while it waits, while it runs and after its end") {
  start_head();
  auto client = start_client();
  auto id = submit(client, prompt, 24);
  CHECK(story(id) == words{"arrived", "queued"});
  {
    auto answer = explain(id);
    auto in = answer.read();
    REQUIRE(in->getStory().hasStanding());
    CHECK(in->getStory().getStanding().getPosition() == 1);
    CHECK(in->getStory().getStanding().getObstacles().size() == 0); // no instance yet
    CHECK(in->getStory().getSlo().getTtftMs() == 20000);
  }
  start_node("a");
  until([&] { return client.log->streamed[id].size() > 3; });
  CHECK(story(id) == words{"arrived", "queued", "dispatched", "first_token"});
  {
    auto answer = explain(id);
    auto in = answer.read();
    CHECK_FALSE(in->getStory().hasStanding());
    auto dispatched = in->getStory().getHappenings()[2];
    CHECK(dispatched.getPrefillInstance() == 1);
    CHECK(dispatched.getDecodeInstance() == 1);
    CHECK(dispatched.getWhy().size() > 0);
  }
  finish(client, id, prompt, 24);
  CHECK(story(id) == words{"arrived", "queued", "dispatched", "first_token", "ended"});
}

TEST_CASE_METHOD(asked, "a job that begins again elsewhere has both attempts in its story") {
  start_head();
  start_node("a");
  until_ready(1);
  auto client = start_client();
  auto id = submit(client, prompt, 60);
  until([&] { return client.log->streamed[id].size() > 3; });
  kill(wires->instances.at(1));
  finish(client, id, prompt, 60);
  const auto told = story(id);
  CHECK(std::count(told.begin(), told.end(), "arrived") == 2);
  CHECK(std::count(told.begin(), told.end(), "dispatched") == 2);
  CHECK(std::count(told.begin(), told.end(), "lost") == 1);
  CHECK(told.back() == "ended");
  CHECK(explain(id).read()->getStory().getRetries() == 1);
}

TEST_CASE_METHOD(asked, "a job that nobody knows has no story") {
  start_head();
  auto answer = explain(99);
  REQUIRE(answer.read()->isRefused());
  CHECK(wire::read(answer.read()->getRefused()).find("r99") != std::string::npos);
}

} // namespace hflex::test::explain_test
