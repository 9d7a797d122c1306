// Numbers as people read them. Scripts get plain numbers with the unit in the key's name.
#pragma once
#include "actors/common/time.hpp"
#include <cstdint>
#include <string>

namespace hflex::cli {

/// Three significant digits in binary units: "512 B", "1.50 KiB", "64.0 MiB", "1.20 GiB".
std::string human_bytes(std::uint64_t bytes);
/// Three significant digits below a minute ("812 us", "12.3 ms", "4.56 s"), two units above ("2 min 5 s", "3 h 2 min",
/// "4 d 1 h").
std::string human_duration(duration d);
/// "97.3 %"; a share of [0, 1].
std::string human_percent(double share);

} // namespace hflex::cli
