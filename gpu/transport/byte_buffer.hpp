// A growing first-in first-out run of bytes that is written and read in place: sockets and device copies work on the
// spans it hands out, so that a payload is never copied once more. Never zeroes what it is about to have overwritten.
#pragma once
#include <cstddef>
#include <cstring>
#include <memory>
#include <span>

namespace hflex::gpu {

class byte_buffer {
public:
  /// Room for `bytes` after the content. Valid until the next call of prepare or consume.
  std::span<std::byte> prepare(std::size_t bytes) {
    if (capacity_ - end_ < bytes) make_room(bytes);
    return {memory_.get() + end_, bytes};
  }
  /// The first `bytes` of what prepare gave are content now.
  void commit(std::size_t bytes) { end_ += bytes; }
  std::span<const std::byte> data() const { return {memory_.get() + begin_, end_ - begin_}; }
  std::size_t size() const { return end_ - begin_; }
  bool empty() const { return begin_ == end_; }
  void consume(std::size_t bytes) {
    begin_ += bytes;
    if (begin_ == end_) begin_ = end_ = 0;
  }
  void clear() { begin_ = end_ = 0; }

private:
  void make_room(std::size_t bytes) {
    const std::size_t used = size();
    if (capacity_ >= used + bytes) {
      std::memmove(memory_.get(), memory_.get() + begin_, used);
    } else {
      capacity_ = used + bytes + used / 2;
      std::unique_ptr<std::byte[]> larger{new std::byte[capacity_]};
      if (used > 0) std::memcpy(larger.get(), memory_.get() + begin_, used);
      memory_ = std::move(larger);
    }
    begin_ = 0;
    end_ = used;
  }

  std::unique_ptr<std::byte[]> memory_;
  std::size_t capacity_{0};
  std::size_t begin_{0};
  std::size_t end_{0};
};

} // namespace hflex::gpu
