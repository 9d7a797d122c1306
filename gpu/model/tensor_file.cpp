#include "gpu/model/tensor_file.hpp"
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace hflex::gpu {

result<mapped_file> mapped_file::open(const std::string& path) {
  // O_NONBLOCK: opening a FIFO that somebody put there must not hang; it has no effect on regular files.
  unique_fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd) return fail(errc::reject, "{}: cannot be opened: {}", path, std::strerror(errno));
  struct stat info {};
  if (::fstat(fd.get(), &info) != 0 || !S_ISREG(info.st_mode))
    return fail(errc::reject, "{}: is not a regular file", path);
  const auto size = static_cast<std::size_t>(info.st_size);
  void* address = size == 0 ? nullptr : ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd.get(), 0);
  if (address == MAP_FAILED) return fail(errc::reject, "{}: cannot be mapped: {}", path, std::strerror(errno));
  return mapped_file(path, std::move(fd), {static_cast<const std::byte*>(address), size});
}

mapped_file::mapped_file(mapped_file&& other) noexcept
    : path_(std::move(other.path_)), fd_(std::move(other.fd_)), bytes_(std::exchange(other.bytes_, {})) {}

mapped_file& mapped_file::operator=(mapped_file&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(fd_, other.fd_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

mapped_file::~mapped_file() {
  if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

result<void> mapped_file::read(std::span<const std::byte> part, std::byte* to) const {
  const off_t begin = offset_of(part);
  for (std::size_t done = 0; done < part.size();) {
    const auto some = ::pread(fd_.get(), to + done, part.size() - done, begin + static_cast<off_t>(done));
    if (some < 0 && errno == EINTR) continue;
    if (some < 0) return fail(errc::reject, "{}: cannot be read: {}", path_, std::strerror(errno));
    if (some == 0)
      return fail(errc::reject, "{}: had {} bytes when it was opened, and fewer now: it was truncated meanwhile", path_,
          bytes_.size());
    done += static_cast<std::size_t>(some);
  }
  return {};
}

void mapped_file::expect(std::span<const std::byte> part) const {
  ::posix_fadvise(fd_.get(), offset_of(part), static_cast<off_t>(part.size()), POSIX_FADV_WILLNEED); // a hint
}

fault_list::~fault_list() {
  if (count_ > max_listed) out_.push_back(fmt::format("{}: and {} faults more", source_, count_ - max_listed));
}

void fault_list::add(const std::string& what) {
  if (++count_ <= max_listed) out_.push_back(source_ + ": " + what);
}

} // namespace hflex::gpu
