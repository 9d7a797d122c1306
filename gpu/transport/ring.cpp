#include "gpu/transport/ring.hpp"
#include "actors/common/check.hpp"
#include <algorithm>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>

namespace hflex::gpu {
namespace {

constexpr std::uint64_t chunk_alignment = 64; // chunks begin on cache lines
constexpr int ring_seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

std::uint64_t aligned(std::uint64_t position) {
  return (position + chunk_alignment - 1) / chunk_alignment * chunk_alignment;
}

} // namespace

mapping::mapping(int fd, std::size_t bytes, bool writable) {
  void* at = ::mmap(nullptr, bytes, writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, fd, 0);
  if (at == MAP_FAILED) return;
  data_ = static_cast<std::byte*>(at);
  bytes_ = bytes;
}

mapping::mapping(mapping&& other) noexcept
    : data_{std::exchange(other.data_, nullptr)}, bytes_{std::exchange(other.bytes_, 0)} {}

mapping& mapping::operator=(mapping&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

mapping::~mapping() {
  if (data_ != nullptr) ::munmap(data_, bytes_);
}

result<std::pair<ring_writer, unique_fd>> ring_writer::create(std::uint64_t bytes) {
  unique_fd fd{::memfd_create("hflex-ring", MFD_CLOEXEC | MFD_ALLOW_SEALING)};
  if (!fd || ::ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0 || ::fcntl(fd.get(), F_ADD_SEALS, ring_seals) != 0)
    return fail(errc::fatal, "cannot make a shared ring of {} bytes", bytes);
  mapping memory{fd.get(), bytes, true};
  if (memory.data() == nullptr) return fail(errc::fatal, "cannot map a shared ring of {} bytes", bytes);
  return std::pair{ring_writer{std::move(memory)}, std::move(fd)};
}

std::span<std::byte> ring_writer::reserve(std::uint64_t min, std::uint64_t max) {
  const std::uint64_t size = memory_.size();
  const std::uint64_t used = head_ - tail_;
  if (used >= size) return {};
  const std::uint64_t free = size - used;
  const std::uint64_t to_end = size - head_ % size;
  reserved_ = head_;
  std::uint64_t room = std::min(free, to_end);
  if (room < min && free > to_end) { // skip the end of the ring
    reserved_ = head_ + to_end;
    room = free - to_end;
  }
  if (room < min) return {};
  return {memory_.data() + reserved_ % size, std::min(room, max)};
}

std::uint64_t ring_writer::commit(std::uint64_t bytes) {
  head_ = aligned(reserved_ + bytes);
  return reserved_;
}

bool ring_writer::credit(std::uint64_t position) {
  const std::uint64_t next = aligned(position);
  if (next < position || next < tail_ || next > head_) return false;
  tail_ = next;
  return true;
}

result<ring_reader> ring_reader::map(unique_fd fd, std::uint64_t bytes) {
  if (bytes < min_ring_bytes || bytes > max_ring_bytes || bytes % chunk_alignment != 0)
    return fail(errc::reject, "ring of {} bytes: expected {} to {}", bytes, min_ring_bytes, max_ring_bytes);
  struct stat status {};
  struct statfs system {};
  const int seals = ::fcntl(fd.get(), F_GET_SEALS);
  if (seals < 0 || (seals & F_SEAL_SHRINK) == 0) return fail(errc::reject, "ring is not sealed against shrinking");
  // Pages of tmpfs come on demand; those of hugetlbfs may be missing when touched, and a touch would be fatal.
  if (::fstatfs(fd.get(), &system) != 0 || system.f_type != TMPFS_MAGIC)
    return fail(errc::reject, "ring is not in memory");
  if (::fstat(fd.get(), &status) != 0 || status.st_size < static_cast<off_t>(bytes))
    return fail(errc::reject, "ring is smaller than {} bytes", bytes);
  mapping memory{fd.get(), bytes, false};
  if (memory.data() == nullptr) return fail(errc::reject, "cannot map the peer's ring");
  return ring_reader{std::move(memory)};
}

result<std::span<const std::byte>> ring_reader::at(std::uint64_t position, std::uint64_t bytes) const {
  const std::uint64_t size = memory_.size();
  const std::uint64_t offset = position % size;
  const bool inside = position >= consumed_ && position - consumed_ <= size && bytes <= size - offset;
  if (!inside) return fail(errc::reject, "chunk of {} bytes at {} lies outside the ring", bytes, position);
  return std::span<const std::byte>{memory_.data() + offset, bytes};
}

} // namespace hflex::gpu
