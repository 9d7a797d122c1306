#include "gpu/host_memory.hpp"
#include <cerrno>
#include <sys/mman.h>
#include <system_error>

namespace hflex::gpu {

result<host_memory> host_memory::allocate(std::size_t bytes) {
  void* at = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED)
    return fail(errc::fatal, "allocating {} bytes: {}", bytes, std::generic_category().message(errno));
  ::madvise(at, bytes, MADV_HUGEPAGE); // a hint: small pages work too
  host_memory memory;
  memory.at_ = static_cast<std::byte*>(at);
  memory.bytes_ = bytes;
  return memory;
}

void host_memory::touch() const {
#ifdef MADV_POPULATE_WRITE
  ::madvise(at_, bytes_, MADV_POPULATE_WRITE);
#endif
}

host_memory::~host_memory() {
  if (at_ != nullptr) ::munmap(at_, bytes_);
}

} // namespace hflex::gpu
