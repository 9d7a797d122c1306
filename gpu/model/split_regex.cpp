#define PCRE2_CODE_UNIT_WIDTH 8
#include "gpu/model/split_regex.hpp"
#include "actors/common/check.hpp"
#include "gpu/model/json_file.hpp"
#include "gpu/model/utf8.hpp"
#include <algorithm>
#include <array>
#include <pcre2.h>

namespace hflex::gpu {
namespace {

constexpr std::size_t max_pattern_bytes = 16384;
constexpr std::uint32_t match_limit =
    10'000'000; // backtracking steps of one match; a megabyte of blanks takes 2 million
constexpr std::uint32_t depth_limit = 10'000;
constexpr std::uint32_t heap_limit_kib = 64U << 10U;

/// Walks a pattern and rewrites what the two engines read differently.
class translator {
public:
  explicit translator(std::string_view pattern) : rest_(pattern) {}

  result<std::string> run() {
    while (!rest_.empty()) {
      const auto status = in_class_ ? class_item() : item();
      if (!status) return pass(status.error());
    }
    if (in_class_) return fail(errc::reject, "a [ is never closed");
    return std::move(out_);
  }

private:
  // White_Space, spelled out: PCRE2's own \s also takes U+180E, which has not been white space since Unicode 6.3.
  static constexpr std::string_view space_set = R"(\p{Z}\t-\r\x{85})";

  char take() {
    const char c = rest_.front();
    rest_.remove_prefix(1);
    out_ += c;
    return c;
  }
  result<void> replace(std::size_t n, std::string_view instead) {
    out_ += instead;
    rest_.remove_prefix(n);
    return {};
  }
  static bool is_alnum(char c) { return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z'); }

  result<void> item() {
    if (rest_.front() == '\\') return escape();
    if (rest_.front() == '(') return group();
    const char c = take();
    if (c != '[') return {};
    in_class_ = true;
    if (rest_.substr(0, 1) == "^") take();
    if (rest_.substr(0, 1) == "]") return fail(errc::reject, "a class that begins with ] is not supported");
    return {};
  }

  result<void> class_item() {
    if (rest_.front() == '\\') return escape();
    // Oniguruma nests classes and intersects them; PCRE2 reads the same signs as literals.
    if (rest_.front() == '[') return fail(errc::reject, "a class inside a class is not supported");
    if (rest_.substr(0, 2) == "&&") return fail(errc::reject, "an intersection of classes (&&) is not supported");
    if (take() == ']') in_class_ = false;
    return {};
  }

  result<void> group() {
    for (const std::string_view known : {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:"}) {
      if (rest_.substr(0, known.size()) == known) return replace(known.size(), known);
    }
    const auto next = rest_.substr(0, 2);
    if (next == "(?" || next == "(*") {
      return fail(errc::reject, "the group {} is not supported", printable(rest_.substr(0, 4)));
    }
    take();
    return {};
  }

  result<void> escape() {
    if (rest_.size() < 2) return fail(errc::reject, "it ends in a backslash");
    switch (const char c = rest_[1]; c) {
    case 's':
      return replace(2, in_class_ ? std::string(space_set) : "[" + std::string(space_set) + "]");
    case 'S':
      if (in_class_) return fail(errc::reject, "\\S inside a class is not supported");
      return replace(2, "[^" + std::string(space_set) + "]");
    case 'p':
    case 'P':
      return property();
    case 'u':
      return code_unit();
    case 'd':
    case 'D':
    case 'r':
    case 'n':
    case 't':
    case 'f':
      break;
    default:
      // \w, \b, \h and others mean different characters to the two engines.
      if (is_alnum(c)) return fail(errc::reject, "the escape \\{} is not supported", c);
    }
    take();
    take();
    return {};
  }

  /// General categories only: script names mean other sets in other versions of PCRE2.
  result<void> property() {
    const auto end = rest_.find('}');
    const auto body = rest_.substr(2, end == rest_.npos ? end : end - 2); // "{L" or "{^Lu"
    const auto letters =
        body.substr(std::min(body.size(), body.substr(0, 2) == "{^" ? std::size_t{2} : std::size_t{1}));
    const bool good = end != rest_.npos && body.substr(0, 1) == "{" && !letters.empty() && letters.size() <= 2 &&
                      std::string_view("CLMNPSZ").find(letters[0]) != letters.npos &&
                      (letters.size() == 1 || (letters[1] >= 'a' && letters[1] <= 'z'));
    if (!good) {
      return fail(errc::reject, "the property {} is not supported: general categories are",
          printable(rest_.substr(0, end == rest_.npos ? 8 : end + 1)));
    }
    return replace(end + 1, rest_.substr(0, end + 1));
  }

  /// \uHHHH, which PCRE2 writes \x{HHHH}.
  result<void> code_unit() {
    const auto digits = rest_.substr(2, 4);
    if (digits.size() < 4 || digits.find_first_not_of("0123456789abcdefABCDEF") != digits.npos) {
      return fail(errc::reject, "\\u wants four hexadecimal digits");
    }
    return replace(6, "\\x{" + std::string(digits) + "}");
  }

  std::string_view rest_;
  std::string out_;
  bool in_class_{false};
};

/// What a match needs besides the pattern. One per thread: creating it costs more than matching a short prompt.
struct match_workspace {
  pcre2_match_context* context{pcre2_match_context_create(nullptr)};
  pcre2_match_data* data{pcre2_match_data_create(1, nullptr)};
  pcre2_jit_stack* stack{pcre2_jit_stack_create(32U << 10U, 1U << 20U, nullptr)};

  match_workspace() {
    HFLEX_CHECK(context != nullptr && data != nullptr);
    pcre2_set_match_limit(context, match_limit);
    pcre2_set_depth_limit(context, depth_limit);
    pcre2_set_heap_limit(context, heap_limit_kib);
    if (stack != nullptr) pcre2_jit_stack_assign(context, nullptr, stack); // null on machines without JIT
  }
  match_workspace(const match_workspace&) = delete;
  match_workspace& operator=(const match_workspace&) = delete;
  ~match_workspace() {
    pcre2_jit_stack_free(stack);
    pcre2_match_data_free(data);
    pcre2_match_context_free(context);
  }
};

std::string pcre2_message(int code) {
  std::array<PCRE2_UCHAR, 128> text{};
  pcre2_get_error_message(code, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

} // namespace

result<std::string> translate_regex(std::string_view pattern) { return translator(pattern).run(); }

result<split_regex> split_regex::compile(std::string_view pattern) {
  if (pattern.size() > max_pattern_bytes) {
    return fail(errc::reject, "the regular expression has {} bytes; at most {} are expected", pattern.size(),
        max_pattern_bytes);
  }
  const auto translated = translate_regex(pattern);
  if (!translated) return fail(errc::reject, "regular expression: {}", translated.error().message);

  const std::unique_ptr<pcre2_compile_context, void (*)(pcre2_compile_context*)> context(
      pcre2_compile_context_create(nullptr), pcre2_compile_context_free);
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  pcre2_set_parens_nest_limit(context.get(), 50);
  // MULTILINE: Oniguruma's ^ and $ always stand for lines.
  constexpr std::uint32_t options =
      PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NO_AUTO_CAPTURE | PCRE2_NEVER_BACKSLASH_C;
  int problem = 0;
  std::size_t where = 0;
  auto* code = pcre2_compile(
      reinterpret_cast<PCRE2_SPTR>(translated->data()), translated->size(), options, &problem, &where, context.get());
  if (code == nullptr) return fail(errc::reject, "regular expression: {}", pcre2_message(problem));
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE); // where there is no JIT, the interpreter runs: slower, the same result
  return split_regex(std::shared_ptr<const void>(code, [](auto* c) { pcre2_code_free(static_cast<pcre2_code*>(c)); }));
}

void split_regex::split(std::string_view text, std::vector<std::string_view>& pieces) const {
  thread_local const match_workspace workspace;
  const auto* code = static_cast<const pcre2_code*>(code_.get());
  const auto emit = [&](std::size_t begin, std::size_t end) {
    if (begin < end) pieces.push_back(text.substr(begin, end - begin));
  };
  std::size_t done = 0;  // everything before has been emitted
  std::size_t start = 0; // where the next match may begin
  while (start < text.size()) {
    // NO_UTF_CHECK: the text is valid by contract, and checking all of it again for every match would be quadratic.
    const int found = pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), start,
        PCRE2_NO_UTF_CHECK, workspace.data, workspace.context);
    if (found < 0) break; // no further match, or one beyond the limits
    const auto* range = pcre2_get_ovector_pointer(workspace.data);
    emit(done, range[0]);
    emit(range[0], range[1]);
    done = range[1];
    start = done;
    if (range[0] == range[1] && start < text.size()) start += next_utf8(text.substr(start)).bytes; // step over nothing
  }
  emit(done, text.size());
}

} // namespace hflex::gpu
