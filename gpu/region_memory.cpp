#include "gpu/region_memory.hpp"
#include <algorithm>
#include <cerrno>
#include <fcntl.h>
#include <mutex>
#include <sys/mman.h>
#include <sys/stat.h>
#include <system_error>
#include <vector>

namespace hflex::gpu {
namespace {

constexpr int required_seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL;

constexpr std::uint64_t huge_page = 2U << 20U;
constexpr int collapse_advice = 25; // MADV_COLLAPSE of Linux 6.1, which older C libraries do not name

std::string system_message(int error_number) { return std::generic_category().message(error_number); }

/// Address space that begins at a huge page, so that the memory in it can be mapped by huge pages.
void* reserve_addresses(std::uint64_t bytes) {
  bytes = (bytes + 4095) / 4096 * 4096;
  void* all = ::mmap(nullptr, bytes + huge_page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (all == MAP_FAILED) return all;
  auto* at = static_cast<std::byte*>(all);
  const auto skip = (huge_page - reinterpret_cast<std::uintptr_t>(at) % huge_page) % huge_page;
  if (skip > 0) ::munmap(at, skip);
  ::munmap(at + skip + bytes, huge_page - skip);
  return at + skip;
}

/// Makes the huge pages that begin in this part, if the kernel has them.
void make_huge_pages(std::span<std::byte> region, std::uint64_t offset, std::uint64_t bytes) {
  const auto begin = (offset + huge_page - 1) / huge_page * huge_page;
  const auto end =
      std::min((offset + bytes + huge_page - 1) / huge_page * huge_page, region.size() / huge_page * huge_page);
  if (begin >= end) return;
#ifdef MADV_POPULATE_WRITE
  // A page that is there in each: what there is none of cannot be collapsed.
  for (auto at = begin; at < end; at += huge_page)
    if (::madvise(region.data() + at, 4096, MADV_POPULATE_WRITE) != 0) return;
  ::madvise(region.data() + begin, end - begin, collapse_advice); // a hint: small pages work too
#endif
}

class memfd_region final : public weight_region {
public:
  memfd_region(unique_fd fd, region_mapping map, std::string digest, std::shared_ptr<weights_arrival> arrival)
      : fd_(std::move(fd)), map_(std::move(map)), digest_(std::move(digest)), arrival_(std::move(arrival)) {}
  const std::string& digest() const override { return digest_; }
  std::uint64_t bytes() const override { return map_.bytes().size(); }
  int fd() const override { return fd_.get(); }
  std::span<const std::byte> data() const override { return map_.bytes(); }
  std::shared_ptr<weights_arrival> arrival() const override { return arrival_; }
  void keep(std::shared_ptr<const void> companion) const override {
    const std::lock_guard lock(mutex_);
    companions_.push_back(std::move(companion));
  }

private:
  mutable std::mutex mutex_;
  mutable std::vector<std::shared_ptr<const void>> companions_;
  unique_fd fd_;
  region_mapping map_;
  std::string digest_;
  std::shared_ptr<weights_arrival> arrival_;
};

} // namespace

region_mapping::~region_mapping() {
  if (at_ != nullptr) ::munmap(at_, bytes_);
}

result<region_mapping> map_file(int fd, std::uint64_t bytes, map_mode mode) {
  // A shared mapping counts as one that could be made writable: it would forbid the seal, and kernels before 6.7 refuse
  // it once there is the seal. A private one that is never written shows the file's own pages.
  const bool writes = mode == map_mode::write;
  const int protection = writes ? PROT_READ | PROT_WRITE : PROT_READ;
  const int sharing = mode == map_mode::read ? MAP_PRIVATE : MAP_SHARED;
  void* place = reserve_addresses(bytes);
  void* at = place == MAP_FAILED ? place : ::mmap(place, bytes, protection, sharing | MAP_FIXED, fd, 0);
  if (at == MAP_FAILED) return fail(errc::fatal, "mapping {} bytes of weights: {}", bytes, system_message(errno));
  return region_mapping(static_cast<std::byte*>(at), bytes);
}

result<unique_fd> create_region_memory(std::uint64_t bytes) {
  unique_fd fd(::memfd_create("hflex-weights", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd) return fail(errc::fatal, "memfd_create: {}", system_message(errno));
  if (::ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0)
    return fail(errc::fatal, "{} bytes of shared memory for weights: {}", bytes, system_message(errno));
  return fd;
}

result<unique_fd> duplicate(int fd) {
  unique_fd again(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
  if (!again) return fail(errc::fatal, "a second descriptor of weights: {}", system_message(errno));
  return again;
}

result<void> reserve_memory(int fd, const region_mapping& map, std::uint64_t offset, std::uint64_t bytes) {
  // In huge pages a newcomer maps in a millisecond what takes a quarter of a second in small ones, and making them is
  // cheaper, too; what is left over at the ends is made in small ones.
  make_huge_pages(map.bytes(), offset, bytes);
  int why = EINVAL;
#ifdef MADV_POPULATE_WRITE
  if (::madvise(map.bytes().data() + offset, bytes, MADV_POPULATE_WRITE) == 0) return {};
  why = errno;
#endif
  // A kernel before 5.14: the memory is made here, its pages come one by one.
  if (why == EINVAL) why = ::fallocate(fd, 0, static_cast<off_t>(offset), static_cast<off_t>(bytes)) == 0 ? 0 : errno;
  if (why == 0) return {};
  return fail(errc::fatal, "reserving {} bytes of shared memory for weights: {}", bytes, system_message(why));
}

result<void> seal_region(int fd) {
  if (::fcntl(fd, F_ADD_SEALS, required_seals) != 0)
    return fail(errc::fatal, "sealing weights: {}", system_message(errno));
  return {};
}

result<std::uint64_t> sealed_size(int fd) {
  const int seals = ::fcntl(fd, F_GET_SEALS);
  if (seals < 0) return fail(errc::reject, "weight region: not a sealable descriptor ({})", system_message(errno));
  if ((seals & required_seals) != required_seals) return fail(errc::reject, "weight region: not sealed against change");
  struct stat status {};
  if (::fstat(fd, &status) != 0) return fail(errc::reject, "weight region: {}", system_message(errno));
  if (!S_ISREG(status.st_mode) || status.st_size <= 0) return fail(errc::reject, "weight region: empty");
  return static_cast<std::uint64_t>(status.st_size);
}

result<std::shared_ptr<const weight_region>> open_region(
    unique_fd fd, std::uint64_t bytes, std::string digest, std::shared_ptr<weights_arrival> arrival) {
  auto map = map_file(fd.get(), bytes, map_mode::read);
  if (!map) return pass(map.error());
  return std::make_shared<const memfd_region>(std::move(fd), std::move(*map), std::move(digest), std::move(arrival));
}

} // namespace hflex::gpu
