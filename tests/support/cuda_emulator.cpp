#include "tests/support/cuda_emulator.hpp"
#include <array>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <ucontext.h>
#include <vector>

namespace hflex::test {
namespace {

// The address sanitizer clears its notes of the whole stack at each switch: four times the size took three times as
// long.
constexpr std::size_t stack_bytes = std::size_t{64} << 10U;
constexpr std::size_t most_exchanged = 64; ///< bytes of one lane

struct pending_copy {
  void* to{};
  const void* from{};
};

enum class fiber_state { ready, at_barrier, at_exchange, ended };

struct fiber {
  ucontext_t context{};
  std::unique_ptr<std::byte[]> stack;
  fiber_state state{fiber_state::ready};
  std::vector<std::vector<pending_copy>> groups; ///< committed and not waited for, oldest first
  std::vector<pending_copy> open;
};

struct warp {
  unsigned arrived{};
  unsigned turn{}; ///< which half of `lanes` the next exchange uses
  std::size_t bytes{};
  std::array<std::array<unsigned char, cuda::warp_lanes * most_exchanged>, 2> lanes{};
};

class block_run {
public:
  block_run(const launch_shape& shape, thread_order order, const std::function<void()>& thread)
      : shape_(shape), order_(order), thread_(thread), fibers_(shape.threads),
        warps_(shape.threads / cuda::warp_lanes) {
    if (shape.threads == 0 || shape.threads % cuda::warp_lanes != 0)
      throw std::runtime_error("a block needs whole warps");
    for (auto& f : fibers_) f.stack.reset(new std::byte[stack_bytes]);
  }

  void run(cuda::grid_index position);

  cuda::grid_index position() const { return position_; }
  unsigned thread() const { return current_; }
  unsigned char* shared() { return shared_.get(); }

  void barrier() {
    if (++at_barrier_ == fibers_.size()) {
      at_barrier_ = 0;
      for (auto& f : fibers_) f.state = fiber_state::ready;
      return;
    }
    wait(fiber_state::at_barrier);
  }

  const unsigned char* exchange(const void* mine, std::size_t bytes) {
    warp& w = warps_[current_ / cuda::warp_lanes];
    if (bytes > most_exchanged || (w.arrived != 0 && w.bytes != bytes))
      throw std::runtime_error("the lanes of a warp are at different exchanges");
    w.bytes = bytes;
    auto& all = w.lanes[w.turn];
    std::memcpy(all.data() + current_ % cuda::warp_lanes * bytes, mine, bytes);
    if (++w.arrived < cuda::warp_lanes) {
      wait(fiber_state::at_exchange);
    } else {
      w.arrived = 0;
      w.turn ^= 1U;
      const unsigned first = current_ / cuda::warp_lanes * cuda::warp_lanes;
      for (unsigned i = first; i < first + cuda::warp_lanes; ++i) fibers_[i].state = fiber_state::ready;
    }
    return all.data();
  }

  fiber& current() { return fibers_[current_]; }

private:
  static void enter();
  void prepare(fiber& f);
  bool resume_all();
  bool resume_warp(unsigned first);
  void wait(fiber_state why) {
    fiber& f = fibers_[current_];
    f.state = why;
    swapcontext(&f.context, &scheduler_);
  }

  const launch_shape& shape_;
  thread_order order_;
  const std::function<void()>& thread_;
  std::vector<fiber> fibers_;
  std::vector<warp> warps_;
  std::unique_ptr<unsigned char[]> shared_;
  cuda::grid_index position_;
  ucontext_t scheduler_{};
  unsigned current_{};
  std::size_t at_barrier_{};
  std::size_t ended_{};
};

thread_local block_run* running = nullptr;

void block_run::enter() {
  running->thread_();
  running->current().state = fiber_state::ended;
  ++running->ended_;
}

void block_run::prepare(fiber& f) {
  f.state = fiber_state::ready;
  f.groups.clear();
  f.open.clear();
  getcontext(&f.context);
  f.context.uc_stack.ss_sp = f.stack.get();
  f.context.uc_stack.ss_size = stack_bytes;
  f.context.uc_link = &scheduler_;
  makecontext(&f.context, &block_run::enter, 0);
}

/// Lets every warp go on until it waits for another one; false when none could. A warp is taken as far as it gets
/// before the next one moves at all: the widest gap between warps that the barriers allow.
bool block_run::resume_all() {
  bool moved = false;
  const auto count = static_cast<unsigned>(fibers_.size());
  for (unsigned first = 0; first < count; first += cuda::warp_lanes)
    while (resume_warp(first)) moved = true;
  return moved;
}

/// Lets every thread of the warp that can go on do so once.
bool block_run::resume_warp(unsigned first) {
  bool moved = false;
  const auto count = static_cast<unsigned>(fibers_.size());
  for (unsigned i = first; i < first + cuda::warp_lanes; ++i) {
    current_ = order_ == thread_order::forward ? i : count - 1 - i;
    if (fibers_[current_].state != fiber_state::ready) continue;
    swapcontext(&scheduler_, &fibers_[current_].context);
    moved = true;
  }
  return moved;
}

void block_run::run(cuda::grid_index position) {
  position_ = position;
  shared_.reset(new unsigned char[shape_.shared_bytes]);
  std::memset(shared_.get(), 0xff, shape_.shared_bytes);
  at_barrier_ = ended_ = 0;
  for (auto& w : warps_) w.arrived = w.turn = 0;
  for (auto& f : fibers_) prepare(f);
  while (ended_ < fibers_.size())
    if (!resume_all()) throw std::runtime_error("a block hangs: not all of its threads reach a barrier");
}

} // namespace

void run_blocks(const launch_shape& shape, thread_order order, const std::function<void()>& thread) {
  block_run block(shape, order, thread);
  running = &block;
  for (unsigned z = 0; z < shape.grid.z; ++z)
    for (unsigned y = 0; y < shape.grid.y; ++y)
      for (unsigned x = 0; x < shape.grid.x; ++x) block.run({x, y, z});
  running = nullptr;
}

} // namespace hflex::test

namespace hflex::cuda {

unsigned thread_index() { return test::running->thread(); }
grid_index block_position() { return test::running->position(); }
unsigned char* shared_bytes() { return test::running->shared(); }
void sync_threads() { test::running->barrier(); }
const unsigned char* warp_exchange(const void* mine, std::size_t bytes) { return test::running->exchange(mine, bytes); }

void copy_async(void* shared, const void* global) { test::running->current().open.push_back({shared, global}); }

void copy_commit() {
  auto& f = test::running->current();
  f.groups.push_back(std::move(f.open));
  f.open.clear();
}

void copy_groups_wait(int pending) {
  auto& groups = test::running->current().groups;
  while (groups.size() > static_cast<std::size_t>(pending)) {
    for (const auto& c : groups.front()) std::memcpy(c.to, c.from, sizeof(quad));
    groups.erase(groups.begin());
  }
}

} // namespace hflex::cuda
