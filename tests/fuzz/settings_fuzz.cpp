// Any bytes as a cluster's configuration file: refused with words, or a configuration that can be printed and read
// again.
#include "actors/common/check.hpp"
#include "config/loader.hpp"
#include <cstddef>
#include <cstdint>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace hflex::config;
  const std::string text(reinterpret_cast<const char*>(data), size);
  if (text.find("classes_file") != text.npos) return 0; // files that it names are not for a fuzzer to open
  sources from;
  from.file = "fuzz.yaml";
  const auto got = read_config(text, from);
  if (!got) {
    HFLEX_CHECK(!got.error().empty());
    for (const fault& f : got.error()) HFLEX_CHECK(!f.expected.empty());
    return 0;
  }
  HFLEX_CHECK(!got->config.fleet.empty() && !got->config.agents.empty() && !got->config.slo.classes.empty());
  HFLEX_CHECK(!print_config(*got).empty());
  return 0;
}
