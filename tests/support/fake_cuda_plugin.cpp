// A plug-in without a device: what gpu/cuda_device.cpp makes of signals, failures and refusals is tested with it. It
// "computes" token + 1, keeps KV rows in host memory, and does what the first token of a step says. Its weights are a
// number in shared memory, which goes from process to process as device memory does.
#include "tests/support/fake_cuda_plugin.hpp"
#include "gpu/cuda/plugin_abi.hpp"
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <thread>
#include <unistd.h>
#include <vector>

using namespace hflex::test;

namespace {

std::atomic<int> weights_made{0};
fake_counts counts;

} // namespace

namespace hflex::test {

/// Memory of a device.
struct weights_memory {
  weights_memory() {
    const int now = ++counts.there;
    for (int most = counts.most; most < now && !counts.most.compare_exchange_weak(most, now);) {
    }
  }
  weights_memory(const weights_memory&) = delete;
  weights_memory& operator=(const weights_memory&) = delete;
  ~weights_memory() { --counts.there; }
};

} // namespace hflex::test

namespace {

/// A bus of known speed.
class bus {
public:
  void carry(std::uint64_t bytes) {
    if (mib_s_ <= 0) return;
    due_ +=
        std::chrono::nanoseconds(static_cast<std::int64_t>(static_cast<double>(bytes) / mib_s_ * 1e9 / (1U << 20U)));
    const auto left = due_ - (std::chrono::steady_clock::now() - begun_);
    if (left > std::chrono::nanoseconds{0})
      ::poll(nullptr, 0, static_cast<int>(std::chrono::ceil<std::chrono::milliseconds>(left).count()));
    else
      due_ -= left; // it was idle meanwhile
  }

private:
  static double rate() {
    const char* set = std::getenv(fake_mib_s);
    return set == nullptr ? 0 : std::atof(set);
  }
  const double mib_s_{rate()};
  const std::chrono::steady_clock::time_point begun_{std::chrono::steady_clock::now()};
  std::chrono::nanoseconds due_{0};
};

} // namespace

struct hflex_cuda_weights {
  std::uint32_t layers{};
  std::size_t row_bytes{};
  int device{};
  int memory{-1}; ///< holds a number that stands for the weights
  std::unique_ptr<weights_memory> own;
};

struct hflex_cuda_context {
  const hflex_cuda_weights& weights;
  std::thread stream;
  std::atomic<bool> failed{false};
  std::vector<std::int32_t> tokens;
  std::mutex mutex;
  std::map<std::pair<std::uint32_t, std::uint32_t>, std::vector<unsigned char>> rows; ///< by layer and slot

  ~hflex_cuda_context() {
    if (stream.joinable()) stream.join();
  }
};

namespace {

void say(hflex_cuda_fault* fault, const char* words) { std::snprintf(fault->words, sizeof fault->words, "%s", words); }

int devices(hflex_cuda_device* out, int capacity, hflex_cuda_fault*) {
  for (int i = 0; i < 2 && i < capacity; ++i) {
    std::snprintf(out[i].name, sizeof out[i].name, "fake %d", i);
    out[i].uuid[0] = static_cast<unsigned char>(i + 1);
    out[i].compute_major = 9;
    out[i].memory_bytes = std::uint64_t{1} << 30U;
  }
  return 2;
}

int nccl_version() { return weights_made; } // the one number that a test can read through the interface

std::size_t row_bytes_of(const hflex_cuda_model& model, hflex_cuda_element element) {
  return std::size_t{model.kv_heads} * model.head_dim * (element == hflex_cuda_f32 ? 4 : 2);
}

/// Of a model and an element type; never 0.
std::uint64_t number_of(const hflex_cuda_model& model, hflex_cuda_element element) {
  return (std::uint64_t{model.hidden} << 32U | model.layers << 8U) + element + 1;
}

/// Memory that is page-locked, by its address.
std::mutex locked_mutex;
std::map<const void*, std::uint64_t> locked_memory;

/// Device 1 cannot.
hflex_cuda_status lock_host(const void* memory, std::uint64_t bytes, int device, hflex_cuda_fault* fault) {
  if (device == 1) {
    say(fault, "cudaHostRegister: this device takes no memory that is read-only");
    return hflex_cuda_rejected;
  }
  const std::lock_guard lock(locked_mutex);
  locked_memory[memory] = bytes;
  return hflex_cuda_ok;
}
void unlock_host(const void* memory, int) {
  const std::lock_guard lock(locked_mutex);
  locked_memory.erase(memory);
}

/// Whether all of the region comes as it is said to: by the program's copies, or from page-locked memory.
bool comes(const hflex_cuda_model& model, const hflex_cuda_upload& how) {
  const auto* region = static_cast<const unsigned char*>(model.region);
  std::uint64_t end = 0;
  bus to_device;
  for (std::uint32_t i = 0; i < model.tensor_count; ++i) {
    const auto& t = model.tensors[i];
    end = std::max(end, t.offset + t.bytes);
    if (how.locked != 0) continue;
    std::vector<unsigned char> staged(t.bytes);
    if (how.copy(how.user, staged.data(), region + t.offset, t.bytes) != 0) return false;
    if (std::memcmp(staged.data(), region + t.offset, t.bytes) != 0) return false;
    to_device.carry(t.bytes);
    ++counts.tensors;
  }
  const std::lock_guard lock(locked_mutex);
  const auto found = locked_memory.find(model.region);
  return how.locked == 0 || (found != locked_memory.end() && found->second >= end);
}

hflex_cuda_weights* make_weights(const hflex_cuda_model* model, int device, hflex_cuda_element element,
    const hflex_cuda_upload* how, hflex_cuda_fault* fault) {
  auto own = std::make_unique<weights_memory>();
  const bool fails = how->locked != 0 && element == hflex_cuda_f32; // so that a test can see what happens then
  if (model->tensor_count == 0 || fails || !comes(*model, *how)) {
    say(fault, fails ? "cudaMemcpyAsync: no" : "something else came");
    return nullptr;
  }
  ++weights_made;
  const int memory = ::memfd_create("fake-weights", MFD_CLOEXEC);
  const std::uint64_t number = number_of(*model, element);
  if (::write(memory, &number, sizeof number) != sizeof number) say(fault, "no memory");
  return new hflex_cuda_weights{model->layers, row_bytes_of(*model, element), device, memory, std::move(own)};
}

int share_weights(const hflex_cuda_weights* w, hflex_cuda_share* out, hflex_cuda_fault*) {
  *out = {{static_cast<unsigned char>(w->device + 1)}, sizeof(std::uint64_t), 0};
  if (::pread(w->memory, &out->checksum, sizeof out->checksum, 0) != sizeof out->checksum) return -1;
  return ::dup(w->memory);
}

hflex_cuda_weights* adopt_weights(const hflex_cuda_model* model, int device, hflex_cuda_element element,
    const hflex_cuda_share* from, int fd, hflex_cuda_fault* fault) {
  std::uint64_t number = 0;
  if (::pread(fd, &number, sizeof number, 0) != sizeof number || number != from->checksum ||
      number != number_of(*model, element)) {
    say(fault, "shared weights: their checksum is wrong");
    return nullptr;
  }
  const bool same = from->device[0] == device + 1;
  auto own = same ? nullptr : std::make_unique<weights_memory>();
  return new hflex_cuda_weights{model->layers, row_bytes_of(*model, element), device, ::dup(fd), std::move(own)};
}

/// A listening socket stands for NCCL's bootstrap: its name is the ticket.
int socket_named(const unsigned char (&id)[128], sockaddr_un& address) {
  address = {};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path + 1, id, 32); // abstract
  return ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
}

constexpr socklen_t address_bytes = offsetof(sockaddr_un, sun_path) + 33;

hflex_cuda_status make_ticket(
    const hflex_cuda_weights* w, std::uint32_t ranks, hflex_cuda_ticket* out, hflex_cuda_fault* fault) {
  static std::atomic<unsigned> tickets{0};
  *out = {};
  std::snprintf(reinterpret_cast<char*>(out->id), sizeof out->id, "hflex-fake-%d-%u", ::getpid(), ++tickets);
  out->bytes = sizeof(std::uint64_t);
  out->ranks = ranks;
  if (::pread(w->memory, &out->checksum, sizeof out->checksum, 0) != sizeof out->checksum) return hflex_cuda_failed;
  sockaddr_un address{};
  const int door = socket_named(out->id, address);
  if (::bind(door, reinterpret_cast<const sockaddr*>(&address), address_bytes) != 0 ||
      ::listen(door, static_cast<int>(ranks)) != 0) {
    say(fault, "no socket");
    ::close(door);
    return hflex_cuda_failed;
  }
  std::memcpy(out->id + 64, &door, sizeof door); // for send_weights, in this process
  return hflex_cuda_ok;
}

/// As NCCL's, the group begins when all are there.
hflex_cuda_status send_weights(const hflex_cuda_weights* w, const hflex_cuda_ticket* ticket,
    const hflex_cuda_patience* patience, hflex_cuda_fault* fault) {
  int door = -1;
  std::memcpy(&door, ticket->id + 64, sizeof door);
  std::vector<int> peers;
  for (std::uint32_t ms = 0; ms < patience->ms && peers.size() + 1 < ticket->ranks; ms += 10) {
    if (patience->stopped(patience->user, 1) != 0) break;
    pollfd waiting{door, POLLIN, 0};
    if (::poll(&waiting, 1, 10) == 1) peers.push_back(::accept(door, nullptr, nullptr));
  }
  std::uint64_t number = 0;
  bool sent = peers.size() + 1 == ticket->ranks && ::pread(w->memory, &number, sizeof number, 0) == sizeof number;
  for (const int peer : peers) {
    if (sent) sent = ::write(peer, &number, sizeof number) == sizeof number;
    ::close(peer);
  }
  ::close(door);
  if (!sent) say(fault, "not all came");
  return sent ? hflex_cuda_ok : hflex_cuda_failed;
}

hflex_cuda_weights* receive_weights(const hflex_cuda_model* model, int device, hflex_cuda_element element,
    const hflex_cuda_ticket* ticket, const hflex_cuda_patience* patience, hflex_cuda_fault* fault) {
  sockaddr_un address{};
  const int line = socket_named(ticket->id, address);
  std::uint64_t number = 0;
  bool came = ::connect(line, reinterpret_cast<const sockaddr*>(&address), address_bytes) == 0;
  for (pollfd answer{line, POLLIN, 0}; came && ::poll(&answer, 1, 10) == 0;)
    came = patience->stopped(patience->user, 1) == 0;
  came = came && ::read(line, &number, sizeof number) == sizeof number;
  ::close(line);
  if (!came || number != ticket->checksum || number != number_of(*model, element)) {
    say(fault, "not all of the others came in time");
    return nullptr;
  }
  const int memory = ::memfd_create("fake-weights", MFD_CLOEXEC);
  if (::write(memory, &number, sizeof number) != sizeof number) say(fault, "no memory");
  return new hflex_cuda_weights{
      model->layers, row_bytes_of(*model, element), device, memory, std::make_unique<weights_memory>()};
}

std::uint64_t weights_bytes(const hflex_cuda_weights* w) { return w->own ? 1000 : 0; }
void drop_weights(hflex_cuda_weights* w) {
  ::close(w->memory);
  delete w;
}

hflex_cuda_context* make_context(
    const hflex_cuda_weights* weights, const hflex_cuda_options* options, hflex_cuda_fault* fault) {
  if (options->blocks == fake_no_memory_blocks) {
    say(fault, "cudaMalloc: out of memory");
    return nullptr;
  }
  return new hflex_cuda_context{*weights, {}, {}, {}, {}, {}};
}
std::uint64_t context_bytes(const hflex_cuda_context*) { return 234; }
void drop_context(hflex_cuda_context* c) { delete c; }

hflex_cuda_status launch(hflex_cuda_context* c, const hflex_cuda_step* step, hflex_cuda_fault* fault) {
  if (c->stream.joinable()) c->stream.join();
  const std::int32_t order = step->items[0].tokens[0];
  if (order == fake_launch_fails) {
    say(fault, "cudaLaunchKernel: no");
    return hflex_cuda_failed;
  }
  if (order == fake_launch_rejects) {
    say(fault, "too many tables");
    return hflex_cuda_rejected;
  }
  if (order == fake_stream_fails) {
    c->failed = true; // and nothing is ever signalled
    return hflex_cuda_ok;
  }
  c->tokens.clear();
  for (std::uint32_t i = 0; i < step->item_count; ++i) {
    const auto& item = step->items[i];
    if (item.sample == 0) continue;
    c->tokens.push_back(order == fake_logits_not_finite ? -1 : item.tokens[item.token_count - 1] + 1);
  }
  c->stream = std::thread([c, s = *step] {
    for (std::uint32_t layer = 0; s.wants_layers != 0 && layer < c->weights.layers; ++layer) s.signal(s.user, layer);
    s.signal(s.user, hflex_cuda_finished);
  });
  return hflex_cuda_ok;
}

hflex_cuda_status poll(hflex_cuda_context* c, hflex_cuda_fault* fault) {
  if (!c->failed) return hflex_cuda_busy;
  say(fault, "an illegal memory access was encountered");
  return hflex_cuda_failed;
}

hflex_cuda_status collect(hflex_cuda_context* c, std::int32_t* tokens, std::uint64_t* elapsed_ns, hflex_cuda_fault*) {
  std::memcpy(tokens, c->tokens.data(), c->tokens.size() * sizeof *tokens);
  *elapsed_ns = 5000;
  return hflex_cuda_ok;
}

hflex_cuda_status read_kv(hflex_cuda_context* c, std::uint32_t layer, const std::uint32_t* slots, std::uint32_t count,
    void* out, hflex_cuda_fault*) {
  const std::lock_guard lock(c->mutex);
  const std::size_t bytes = c->weights.row_bytes;
  for (std::uint32_t i = 0; i < count; ++i) {
    auto& row = c->rows[{layer, slots[i]}];
    row.resize(2 * bytes);
    std::memcpy(static_cast<unsigned char*>(out) + i * bytes, row.data(), bytes);
    std::memcpy(static_cast<unsigned char*>(out) + (count + i) * bytes, row.data() + bytes, bytes);
  }
  return hflex_cuda_ok;
}

hflex_cuda_status write_kv(hflex_cuda_context* c, std::uint32_t layer, const std::uint32_t* slots, std::uint32_t count,
    const void* in, hflex_cuda_fault*) {
  const std::lock_guard lock(c->mutex);
  const std::size_t bytes = c->weights.row_bytes;
  for (std::uint32_t i = 0; i < count; ++i) {
    auto& row = c->rows[{layer, slots[i]}];
    row.resize(2 * bytes);
    std::memcpy(row.data(), static_cast<const unsigned char*>(in) + i * bytes, bytes);
    std::memcpy(row.data() + bytes, static_cast<const unsigned char*>(in) + (count + i) * bytes, bytes);
  }
  return hflex_cuda_ok;
}

constexpr hflex_cuda_functions functions{&devices, &nccl_version, &make_weights, &lock_host, &unlock_host,
    &share_weights, &adopt_weights, &make_ticket, &send_weights, &receive_weights, &weights_bytes, &drop_weights,
    &make_context, &context_bytes, &drop_context, &launch, &poll, &collect, &read_kv, &write_kv};

} // namespace

extern "C" std::uint32_t hflex_cuda_abi_version() { return hflex_cuda_abi; }
extern "C" const hflex_cuda_functions* hflex_cuda_entry() { return &functions; }
extern "C" fake_counts* fake_cuda_counts() { return &counts; }
