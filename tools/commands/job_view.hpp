// Jobs as the commands show them.
#pragma once
#include "schema/job.capnp.h"
#include "tools/cli/table.hpp"
#include <nlohmann/json.hpp>
#include <string>

namespace hflex::commands {

/// The document of `submit -o json`, `jobs ID -o json` and `wait -o json`.
nlohmann::ordered_json job_json(wire::schema::JobRecord::Reader job);
/// "finished", "shed", ... or "queued", "running".
std::string job_state(wire::schema::JobRecord::Reader job);
cli::style state_style(wire::schema::JobRecord::Reader job);
/// One row per job.
class job_table {
public:
  job_table();
  void add(wire::schema::JobRecord::Reader job);
  std::string render(const cli::terminal& on) const { return table_.render(on); }

private:
  cli::table table_;
};
/// All that is known of one job, for a person.
std::string describe_job(wire::schema::JobRecord::Reader job, const cli::terminal& on);

} // namespace hflex::commands
