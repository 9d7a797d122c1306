// Large zeroed memory of the host backend: page-aligned, taken from the kernel as it is touched, on huge pages where it
// can.
#pragma once
#include "actors/common/result.hpp"
#include <cstddef>
#include <span>
#include <utility>

namespace hflex::gpu {

class host_memory {
public:
  /// errc::fatal when the address space or memory is not there.
  static result<host_memory> allocate(std::size_t bytes);
  host_memory() = default;
  host_memory(host_memory&& o) noexcept : at_(std::exchange(o.at_, nullptr)), bytes_(std::exchange(o.bytes_, 0)) {}
  host_memory& operator=(host_memory&& o) noexcept {
    std::swap(at_, o.at_);
    std::swap(bytes_, o.bytes_);
    return *this;
  }
  ~host_memory();

  /// Takes it all from the kernel now. A hint.
  void touch() const;

  std::byte* data() const { return at_; }
  std::size_t size() const { return bytes_; }

private:
  std::byte* at_{};
  std::size_t bytes_{};
};

} // namespace hflex::gpu
