// Which weights stay in the host's memory after the last context that used them is gone: the next start of that model
// is then a mapping instead of a load. Least recently used go first when idle ones exceed the bound. Called by the node
// agent's shell, which holds the regions and frees what it is told to; decides nothing about weights in use.
#pragma once
#include <cstdint>
#include <list>
#include <map>
#include <string>
#include <vector>

namespace hflex::node {

class host_cache {
public:
  /// `max_idle_bytes` 0: nothing stays.
  explicit host_cache(std::uint64_t max_idle_bytes) : max_idle_bytes_(max_idle_bytes) {}

  /// The host holds these weights now; used by nobody yet, but young. Returns the digests to free.
  std::vector<std::string> add(const std::string& digest, std::uint64_t bytes);
  /// One more user. No-op for weights that are not here.
  void use(const std::string& digest);
  /// One user less. Returns the digests to free, which may be this one.
  std::vector<std::string> release(const std::string& digest);
  /// All that nobody uses: the node ends.
  std::vector<std::string> clear();

  std::uint64_t bytes() const { return bytes_; }
  std::uint64_t idle_bytes() const { return idle_bytes_; }

private:
  struct entry {
    std::uint64_t bytes{};
    std::uint32_t users{};
  };
  std::vector<std::string> shrink(const std::string& spare);
  void drop(const std::string& digest);

  std::uint64_t max_idle_bytes_;
  std::uint64_t bytes_{0};
  std::uint64_t idle_bytes_{0};
  std::map<std::string, entry> entries_;
  std::list<std::string> idle_; ///< least recently used first
};

} // namespace hflex::node
