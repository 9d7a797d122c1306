#include "tools/cli/exit_code.hpp"
#include "tools/commands/commands.hpp"
#include "tools/runtime/client.hpp"
#include <charconv>
#include <cstdio>

namespace hflex::commands {

void add_head_options(CLI::App& app, head_options& to) {
  app.add_option("--head", to.head, "Address of the head, HOST:PORT")->envname("HFLEX_HEAD")->capture_default_str();
  app.add_option("--timeout-s", to.timeout_s, "Longest wait for an answer of the head, in seconds")
      ->envname("HFLEX_TIMEOUT_S")
      ->capture_default_str()
      ->check(number_in(0.001, 86400.0));
}

result<std::unique_ptr<runtime::head_client>> reach_head(const head_options& options) {
  auto at = cli::parse_endpoint(options.head, 7450);
  if (!at) return fail(errc::reject, "--head: {}", at.error().message);
  return runtime::head_client::connect(*at, from_s(options.timeout_s));
}

CLI::Validator number_in(double least, double most) {
  return {[least, most](std::string& word) {
            double number = 0;
            if (CLI::detail::lexical_cast(word, number) && number >= least && number <= most) return std::string{};
            return fmt::format("expected a number from {:g} to {:g}, found '{}'", least, most, word);
          },
      fmt::format("FLOAT in [{:g} - {:g}]", least, most)};
}

CLI::Validator whole_number() {
  return {[](std::string& word) {
            std::uint64_t number = 0;
            const auto [end, fault] = std::from_chars(word.data(), word.data() + word.size(), number);
            if (fault == std::errc{} && end == word.data() + word.size()) return std::string{};
            return fmt::format("expected a whole number from 0, below 2^64, found '{}'", word);
          },
      ""};
}

void add_output_option(CLI::App& app, output& to, const std::string& help) {
  app.add_option("-o,--output", to, help)
      ->transform(one_of(std::map<std::string, output>{{"text", output::text}, {"json", output::json}}))
      ->option_text("text|json");
}

void add_examples(CLI::App& app, const std::string& examples) { app.footer("\nExamples:\n" + examples); }

int report(const error& e) {
  std::fprintf(stderr, "hflex: %s\n", e.message.c_str());
  return e.code == errc::reject ? cli::exit_usage : cli::exit_failed;
}

int usage_error(const std::string& what) {
  std::fprintf(stderr, "hflex: %s\n", what.c_str());
  return cli::exit_usage;
}

result<std::uint64_t> parse_id(const std::string& word, char letter, const char* what) {
  std::string_view digits = word;
  if (!digits.empty() && digits.front() == letter) digits.remove_prefix(1);
  std::uint64_t id = 0;
  auto [end, fault] = std::from_chars(digits.data(), digits.data() + digits.size(), id);
  if (fault != std::errc{} || end != digits.data() + digits.size() || id == 0)
    return fail(errc::reject, "\"{}\" is no {}: expected {}1, {}2, ...", word, what, letter, letter);
  return id;
}

} // namespace hflex::commands
