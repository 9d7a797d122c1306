// Shared memory that weights lie in: a memfd that is written once, sealed against change and then only read. Wraps the
// system calls; knows nothing of what lies inside. Any thread.
#pragma once
#include "gpu/transport/unique_fd.hpp"
#include "gpu/weights.hpp"

namespace hflex::gpu {

/// Unmaps when it goes.
class region_mapping {
public:
  region_mapping() = default;
  region_mapping(std::byte* at, std::size_t bytes) : at_(at), bytes_(bytes) {}
  region_mapping(region_mapping&& o) noexcept
      : at_(std::exchange(o.at_, nullptr)), bytes_(std::exchange(o.bytes_, 0)) {}
  region_mapping& operator=(region_mapping&& o) noexcept {
    std::swap(at_, o.at_);
    std::swap(bytes_, o.bytes_);
    return *this;
  }
  ~region_mapping();
  std::span<std::byte> bytes() const { return {at_, bytes_}; }

private:
  std::byte* at_{};
  std::size_t bytes_{};
};

enum class map_mode : std::uint8_t {
  read,
  write,
  share ///< read the very pages of the file, whatever is done with them; of sealed memory, and since Linux 6.7
};
result<region_mapping> map_file(int fd, std::uint64_t bytes, map_mode mode);

/// A memfd of that size; its memory comes with the first write (or with reserve_memory). errc::fatal.
result<unique_fd> create_region_memory(std::uint64_t bytes);
/// A second descriptor of the same memory. errc::fatal.
result<unique_fd> duplicate(int fd);
/// Makes the memory of a part of a writable mapping of `fd`, in one go instead of page by page; the part begins at a
/// page. errc::fatal when there is none: an error now instead of a signal later.
result<void> reserve_memory(int fd, const region_mapping& map, std::uint64_t offset, std::uint64_t bytes);

/// Against any change, for good. There must be no writable mapping left.
result<void> seal_region(int fd);
/// errc::reject unless it is sealed so; its size otherwise.
result<std::uint64_t> sealed_size(int fd);

/// Maps sealed memory, or, with an `arrival`, memory that is going to be filled and sealed. The caller answers for the
/// digest.
result<std::shared_ptr<const weight_region>> open_region(
    unique_fd fd, std::uint64_t bytes, std::string digest, std::shared_ptr<weights_arrival> arrival = nullptr);

} // namespace hflex::gpu
