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
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return fail(errc::reject, "{}: cannot be opened: {}", path, std::strerror(errno));
  struct stat info {};
  if (::fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    ::close(fd);
    return fail(errc::reject, "{}: is not a regular file", path);
  }
  const auto size = static_cast<std::size_t>(info.st_size);
  void* address = size == 0 ? nullptr : ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0);
  const int problem = errno;
  ::close(fd);
  if (address == MAP_FAILED) return fail(errc::reject, "{}: cannot be mapped: {}", path, std::strerror(problem));
  return mapped_file(path, {static_cast<const std::byte*>(address), size});
}

mapped_file::mapped_file(mapped_file&& other) noexcept
    : path_(std::move(other.path_)), bytes_(std::exchange(other.bytes_, {})) {}

mapped_file& mapped_file::operator=(mapped_file&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

mapped_file::~mapped_file() {
  if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

fault_list::~fault_list() {
  if (count_ > max_listed) out_.push_back(fmt::format("{}: and {} faults more", source_, count_ - max_listed));
}

void fault_list::add(const std::string& what) {
  if (++count_ <= max_listed) out_.push_back(source_ + ": " + what);
}

} // namespace hflex::gpu
