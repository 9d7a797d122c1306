// The CUDA plug-in's two symbols and what stands behind them. Loaded by gpu/cuda_plugin.cpp. No exception leaves it.
#include "gpu/cuda/context.hpp"
#include "gpu/cuda/weights.cuh"
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <cuda_runtime.h>
#include <exception>
#if defined(HFLEX_WITH_NCCL)
#include "gpu/cuda/nccl_group.cuh"
#endif

struct hflex_cuda_weights {
  std::unique_ptr<hflex::cuda::device_weights> value;
};
struct hflex_cuda_context {
  std::unique_ptr<hflex::cuda::device_context> value;
};

namespace {

using hflex::cuda::fault_box;

void say(hflex_cuda_fault* fault, const char* words) { std::snprintf(fault->words, sizeof fault->words, "%s", words); }

/// Runs `body`; what it throws (no memory) becomes `otherwise`.
template <class Result, class Body>
Result guarded(hflex_cuda_fault* fault, Result otherwise, const Body& body) {
  try {
    return body();
  } catch (const std::exception& e) {
    say(fault, e.what());
    return otherwise;
  }
}

hflex::cuda::context_maker maker_for(hflex_cuda_element element) {
  switch (element) {
  case hflex_cuda_f32:
    return hflex::cuda::f32_maker();
  case hflex_cuda_f16:
    return hflex::cuda::f16_maker();
  case hflex_cuda_bf16:
    break;
  }
  return hflex::cuda::bf16_maker();
}

/// Does not make the device current: that takes some hundred MiB of it, and fails where others have all of it.
bool describe(int index, hflex_cuda_device& out, fault_box& faults) {
  cudaDeviceProp properties{};
  if (!faults.check(cudaGetDeviceProperties(&properties, index), "cudaGetDeviceProperties")) return false;
  std::strncpy(out.name, properties.name, sizeof(out.name) - 1);
  out.name[sizeof(out.name) - 1] = '\0';
  std::memcpy(out.uuid, properties.uuid.bytes, sizeof out.uuid);
  out.compute_major = properties.major;
  out.compute_minor = properties.minor;
  out.memory_bytes = properties.totalGlobalMem;
  return true;
}

int devices(hflex_cuda_device* out, int capacity, hflex_cuda_fault* fault) {
  fault_box faults;
  int count = 0;
  faults.check(cudaGetDeviceCount(&count), "no CUDA device");
  for (int i = 0; i < count && i < capacity && !faults.bad(); ++i) describe(i, out[i], faults);
  *fault = faults.fault();
  return faults.bad() ? -1 : count;
}

int nccl_version() {
#if defined(HFLEX_WITH_NCCL)
  int version = 0;
  return ncclGetVersion(&version) == ncclSuccess ? version : 0;
#else
  return 0;
#endif
}

/// Runs `make` with the device current.
template <class Make>
hflex_cuda_weights* weights_on(int device, hflex_cuda_fault* fault, const Make& make) {
  return guarded<hflex_cuda_weights*>(fault, nullptr, [&]() -> hflex_cuda_weights* {
    fault_box faults;
    auto out = std::make_unique<hflex_cuda_weights>();
    if (faults.check(cudaSetDevice(device), "cudaSetDevice")) out->value = make(faults);
    *fault = faults.fault();
    return out->value == nullptr ? nullptr : out.release();
  });
}

hflex_cuda_weights* make_weights(const hflex_cuda_model* model, int device, hflex_cuda_element element,
    const hflex_cuda_upload* how, hflex_cuda_fault* fault) {
  return weights_on(device, fault,
      [&](fault_box& faults) { return maker_for(element).weights(*model, device, element, *how, faults); });
}

hflex_cuda_status lock_host(const void* memory, std::uint64_t bytes, int device, hflex_cuda_fault* fault) {
  fault_box faults;
  int can = 0;
  constexpr unsigned how = cudaHostRegisterPortable | cudaHostRegisterReadOnly;
  if (faults.check(cudaSetDevice(device), "cudaSetDevice") &&
      faults.check(cudaDeviceGetAttribute(&can, cudaDevAttrHostRegisterReadOnlySupported, device), "its attributes")) {
    if (can == 0)
      faults.note("cudaHostRegister", "this device takes no memory that is read-only");
    else
      faults.check(cudaHostRegister(const_cast<void*>(memory), bytes, how), "cudaHostRegister");
  }
  cudaGetLastError(); // a refusal is no fault of later calls
  *fault = faults.fault();
  return faults.bad() ? hflex_cuda_rejected : hflex_cuda_ok;
}

void unlock_host(const void* memory, int device) {
  cudaSetDevice(device);
  cudaHostUnregister(const_cast<void*>(memory));
  cudaGetLastError();
}

bool identity_of(int device, unsigned char (&out)[16], fault_box& faults) {
  cudaDeviceProp properties{};
  if (!faults.check(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties")) return false;
  static_assert(sizeof properties.uuid.bytes == sizeof out);
  std::memcpy(out, properties.uuid.bytes, sizeof out);
  return true;
}

int share_weights(const hflex_cuda_weights* weights, hflex_cuda_share* out, hflex_cuda_fault* fault) {
  return guarded(fault, -1, [&] {
    fault_box faults;
    const auto& w = *weights->value;
    int fd = -1;
    if (faults.check(cudaSetDevice(w.device), "cudaSetDevice") && identity_of(w.device, out->device, faults)) {
      out->bytes = w.memory->bytes();
      out->checksum = hflex::cuda::checksum_of(*w.memory, faults);
      if (!faults.bad()) fd = w.memory->share(faults);
    }
    *fault = faults.fault();
    return fd;
  });
}

hflex_cuda_weights* adopt_weights(const hflex_cuda_model* model, int device, hflex_cuda_element element,
    const hflex_cuda_share* from, int fd, hflex_cuda_fault* fault) {
  return weights_on(device, fault, [&](fault_box& faults) -> std::unique_ptr<hflex::cuda::device_weights> {
    unsigned char here[16]{};
    if (!identity_of(device, here, faults)) return nullptr;
    const bool same = std::memcmp(here, from->device, sizeof here) == 0;
    return maker_for(element).adopted(*model, device, element, {fd, from->bytes, from->checksum, same}, faults);
  });
}

#if defined(HFLEX_WITH_NCCL)

hflex_cuda_status make_ticket(
    const hflex_cuda_weights* weights, std::uint32_t ranks, hflex_cuda_ticket* out, hflex_cuda_fault* fault) {
  return guarded(fault, hflex_cuda_failed, [&] {
    fault_box faults;
    const auto& w = *weights->value;
    ncclUniqueId id{};
    const bool current = faults.check(cudaSetDevice(w.device), "cudaSetDevice");
    if (const auto r = ncclGetUniqueId(&id); r != ncclSuccess) faults.note("ncclGetUniqueId", ncclGetErrorString(r));
    std::memcpy(out->id, &id, sizeof out->id);
    out->bytes = w.memory->bytes();
    out->rank = 0;
    out->ranks = ranks;
    if (current) out->checksum = hflex::cuda::checksum_of(*w.memory, faults);
    *fault = faults.fault();
    return faults.bad() ? hflex_cuda_failed : hflex_cuda_ok;
  });
}

hflex_cuda_status send_weights(const hflex_cuda_weights* weights, const hflex_cuda_ticket* ticket,
    const hflex_cuda_patience* patience, hflex_cuda_fault* fault) {
  return guarded(fault, hflex_cuda_failed, [&] {
    fault_box faults;
    const auto& w = *weights->value;
    if (faults.check(cudaSetDevice(w.device), "cudaSetDevice")) {
      const hflex::cuda::wait_limit limit(*patience);
      hflex::cuda::device_stream stream(faults);
      hflex::cuda::nccl_group group(*ticket, limit, faults);
      group.broadcast(w.memory->data(), w.memory->bytes(), stream);
    }
    *fault = faults.fault();
    return faults.bad() ? hflex_cuda_failed : hflex_cuda_ok;
  });
}

hflex_cuda_weights* receive_weights(const hflex_cuda_model* model, int device, hflex_cuda_element element,
    const hflex_cuda_ticket* ticket, const hflex_cuda_patience* patience, hflex_cuda_fault* fault) {
  return weights_on(device, fault, [&](fault_box& faults) {
    const auto receive = [&](std::byte* slab, std::size_t bytes) {
      const hflex::cuda::wait_limit limit(*patience);
      hflex::cuda::device_stream stream(faults);
      hflex::cuda::nccl_group group(*ticket, limit, faults);
      group.broadcast(slab, bytes, stream);
    };
    return maker_for(element).received(*model, device, element, *ticket, receive, faults);
  });
}

#else

constexpr const char* without_nccl = "this hflex was built without NCCL";

hflex_cuda_status make_ticket(const hflex_cuda_weights*, std::uint32_t, hflex_cuda_ticket*, hflex_cuda_fault* fault) {
  say(fault, without_nccl);
  return hflex_cuda_rejected;
}
hflex_cuda_status send_weights(
    const hflex_cuda_weights*, const hflex_cuda_ticket*, const hflex_cuda_patience*, hflex_cuda_fault* fault) {
  say(fault, without_nccl);
  return hflex_cuda_rejected;
}
hflex_cuda_weights* receive_weights(const hflex_cuda_model*, int, hflex_cuda_element, const hflex_cuda_ticket*,
    const hflex_cuda_patience*, hflex_cuda_fault* fault) {
  say(fault, without_nccl);
  return nullptr;
}

#endif

std::uint64_t weights_bytes(const hflex_cuda_weights* weights) { return weights->value->memory->own_bytes(); }

void drop_weights(hflex_cuda_weights* weights) {
  cudaSetDevice(weights->value->device);
  delete weights;
}

hflex_cuda_context* make_context(
    const hflex_cuda_weights* weights, const hflex_cuda_options* options, hflex_cuda_fault* fault) {
  return guarded<hflex_cuda_context*>(fault, nullptr, [&]() -> hflex_cuda_context* {
    fault_box faults;
    auto out = std::make_unique<hflex_cuda_context>();
    if (faults.check(cudaSetDevice(weights->value->device), "cudaSetDevice"))
      out->value = maker_for(weights->value->element).context(*weights->value, *options, faults);
    *fault = faults.fault();
    return out->value == nullptr ? nullptr : out.release();
  });
}

std::uint64_t context_bytes(const hflex_cuda_context* context) { return context->value->bytes(); }
void drop_context(hflex_cuda_context* context) { delete context; }

hflex_cuda_status launch(hflex_cuda_context* context, const hflex_cuda_step* step, hflex_cuda_fault* fault) {
  return guarded(fault, hflex_cuda_failed, [&] { return context->value->launch(*step, *fault); });
}
hflex_cuda_status poll(hflex_cuda_context* context, hflex_cuda_fault* fault) {
  return guarded(fault, hflex_cuda_failed, [&] { return context->value->poll(*fault); });
}
hflex_cuda_status collect(
    hflex_cuda_context* context, std::int32_t* tokens, std::uint64_t* elapsed_ns, hflex_cuda_fault* fault) {
  return guarded(fault, hflex_cuda_failed, [&] { return context->value->collect(tokens, *elapsed_ns, *fault); });
}
hflex_cuda_status read_kv(hflex_cuda_context* context, std::uint32_t layer, const std::uint32_t* slots,
    std::uint32_t count, void* out, hflex_cuda_fault* fault) {
  return guarded(fault, hflex_cuda_failed, [&] { return context->value->read_kv(layer, slots, count, out, *fault); });
}
hflex_cuda_status write_kv(hflex_cuda_context* context, std::uint32_t layer, const std::uint32_t* slots,
    std::uint32_t count, const void* in, hflex_cuda_fault* fault) {
  return guarded(fault, hflex_cuda_failed, [&] { return context->value->write_kv(layer, slots, count, in, *fault); });
}

constexpr hflex_cuda_functions functions{&devices, &nccl_version, &make_weights, &lock_host, &unlock_host,
    &share_weights, &adopt_weights, &make_ticket, &send_weights, &receive_weights, &weights_bytes, &drop_weights,
    &make_context, &context_bytes, &drop_context, &launch, &poll, &collect, &read_kv, &write_kv};

} // namespace

extern "C" std::uint32_t hflex_cuda_abi_version() { return hflex_cuda_abi; }
extern "C" const hflex_cuda_functions* hflex_cuda_entry() {
#if defined(HFLEX_WITH_NCCL)
  // Between two devices of one process NCCL would have one write to the other's buffers; only their own device can
  // reach the memory that weights lie in (device_memory.cuh). It asks for this with its first communicator.
  ::setenv("NCCL_P2P_DIRECT_DISABLE", "1", 0);
#endif
  return &functions;
}
