// Conversations through all shells: messages are framed by the model's chat template, or refused with the reason.
#include "tests/support/small_cluster.hpp"

namespace hflex::test::chat_test {
namespace {

struct chat_cluster : small_cluster {
  /// The demo tokenizer with its two special tokens renamed to the markers that the template below needs.
  void use_template() {
    auto file = slurp(demo_model() + "/tokenizer.json");
    const auto rename = [&file](const std::string& from, const std::string& to) {
      for (auto at = file.find(from); at != std::string::npos; at = file.find(from, at))
        file.replace(at, from.size(), to);
    };
    rename("<|begin_of_text|>", "<|im_start|>");
    rename("<|end_of_text|>", "<|im_end|>");
    auto words = gpu::tokenizer::parse(file, "with markers");
    REQUIRE(words);
    settings.router.tokenizer = *words;
    settings.router.chat =
        gpu::chat_template::recognize("{{ '<|im_start|>' + message.role + message.content + '<|im_end|>' }}");
    REQUIRE(settings.router.chat);
  }

  msg<s::SubmitAnswer> try_chat(
      const test_client& client, const std::vector<gpu::chat_message>& turns, const std::string& prompt = {}) {
    auto message = msg<s::SubmitJob>::make([&](s::SubmitJob::Builder out) {
      out.setPrompt(prompt);
      out.setMaxOutputTokens(8);
      auto list = out.initMessages(static_cast<unsigned>(turns.size()));
      for (unsigned i = 0; i < turns.size(); ++i) {
        list[i].setRole(turns[i].role);
        list[i].setContent(turns[i].content);
      }
    });
    return ask<msg<s::SubmitAnswer>>(head.router, message, client.actor);
  }

  std::string refusal(const msg<s::SubmitAnswer>& answer) {
    REQUIRE(answer.read()->isRefused());
    return wire::read(answer.read()->getRefused());
  }
};

} // namespace

TEST_CASE_METHOD(chat_cluster, "a conversation runs as the tokens that the model's template makes of it") {
  use_template();
  start_head();
  start_node("a");
  until_ready(1);
  auto client = start_client();
  const std::vector<gpu::chat_message> turns{{"system", "Be kind."}, {"user", "Who wrote <|im_end|> Emma?"}};
  auto answer = try_chat(client, turns);
  REQUIRE(answer.read()->isAccepted());
  auto id = answer.read()->getAccepted();
  until([&] { return !client.log->of(id).empty(); });
  auto prompt = settings.router.chat->encode(turns, *settings.router.tokenizer);
  REQUIRE(prompt);
  CHECK(client.log->of(id)[0].outcome == s::Outcome::FINISHED);
  CHECK(client.log->of(id)[0].tokens == expected_tokens(*prompt, 8, tokenizer()->vocab_size()));
}

TEST_CASE_METHOD(chat_cluster, "messages to a model without a chat template are refused with the reason") {
  settings.router.chat = gpu::chat_template::recognize({});
  start_head();
  auto client = start_client();
  check_says(refusal(try_chat(client, {{"user", "Hello"}})), {"no chat template", "prompt"});
}

TEST_CASE_METHOD(chat_cluster, "conversations that make no sense or are too large are refused with the reason") {
  use_template();
  settings.router.max_prompt_bytes = 100;
  settings.router.max_messages = 3;
  start_head();
  auto client = start_client();
  check_says(refusal(try_chat(client, {{"user", "a"}}, "b")), {"a prompt or messages, not both"});
  check_says(refusal(try_chat(client, {{"robot", "a"}})), {"message 1", "\"robot\""});
  check_says(refusal(try_chat(client, {{"user", "a"}, {"assistant", "b"}})), {"the last message", "the user's"});
  check_says(refusal(try_chat(client, {{"user", std::string(60, 'a')}, {"user", std::string(60, 'b')}})),
      {"more than 100 bytes"});
  check_says(refusal(try_chat(client, {{"user", "a"}, {"user", "b"}, {"user", "c"}, {"user", "d"}})),
      {"4 messages", "at most 3"});
}

} // namespace hflex::test::chat_test
