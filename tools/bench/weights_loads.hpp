// Ways to get weights into a process, measured one by one. Called by bench/weights.cpp.
#pragma once
#include "tools/bench/weights.hpp"

namespace hflex::bench {

result<weights_ceilings> measure_ceilings(std::uint64_t bytes);

/// Drops the directory's files from the page cache; false when they are still there.
bool drop_from_page_cache(const std::string& dir);

/// All ways; the region that was loaded comes back for what else is measured with it.
result<std::vector<load_point>> measure_loads(
    const std::string& dir, std::uint32_t repeats, std::shared_ptr<const gpu::weight_region>& region);

} // namespace hflex::bench
