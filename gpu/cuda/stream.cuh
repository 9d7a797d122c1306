// CUDA underneath forward.cuh and unpack_model.cuh: device memory, one stream, and cuBLASLt with one remembered plan
// for each shape. The first error is kept and everything after it is skipped: the caller asks once, at the end.
#pragma once
#include "gpu/cuda/forward.cuh"
#include <cstdio>
#include <cublasLt.h>
#include <cuda_runtime.h>
#include <map>
#include <tuple>
#include <vector>

namespace hflex::cuda {

/// The first thing that went wrong, in words.
class fault_box {
public:
  bool bad() const { return fault_.words[0] != '\0'; }
  const hflex_cuda_fault& fault() const { return fault_; }
  void note(const char* what, const char* why) {
    if (!bad()) std::snprintf(fault_.words, sizeof fault_.words, "%s: %s", what, why);
  }
  /// True when all is well.
  bool check(cudaError_t e, const char* what) {
    if (e != cudaSuccess) note(what, cudaGetErrorString(e));
    return e == cudaSuccess;
  }
  bool check(cublasStatus_t s, const char* what) {
    if (s != CUBLAS_STATUS_SUCCESS) note(what, cublasLtGetStatusString(s));
    return s == CUBLAS_STATUS_SUCCESS;
  }
  void clear() { fault_ = {}; }

private:
  hflex_cuda_fault fault_{};
};

/// Owns what it allocates, on the device and (pinned) on the host.
class memory_owner {
public:
  memory_owner() = default;
  memory_owner(const memory_owner&) = delete;
  memory_owner& operator=(const memory_owner&) = delete;
  ~memory_owner() {
    for (void* p : device_) cudaFree(p);
    for (void* p : pinned_) cudaFreeHost(p);
  }
  template <class T>
  T* device(std::size_t count, fault_box& faults) {
    void* at = nullptr;
    if (faults.bad() || !faults.check(cudaMalloc(&at, std::max<std::size_t>(1, count) * sizeof(T)), "cudaMalloc"))
      return nullptr;
    device_.push_back(at);
    bytes_ += count * sizeof(T);
    return static_cast<T*>(at);
  }
  template <class T>
  T* pinned(std::size_t count, fault_box& faults) {
    void* at = nullptr;
    if (faults.bad() ||
        !faults.check(cudaMallocHost(&at, std::max<std::size_t>(1, count) * sizeof(T)), "cudaMallocHost"))
      return nullptr;
    pinned_.push_back(at);
    return static_cast<T*>(at);
  }
  std::uint64_t bytes() const { return bytes_; } ///< on the device

private:
  std::vector<void*> device_;
  std::vector<void*> pinned_;
  std::uint64_t bytes_{};
};

template <class T>
constexpr cudaDataType_t cuda_type = CUDA_R_32F;
template <>
inline constexpr cudaDataType_t cuda_type<bf16> = CUDA_R_16BF;
template <>
inline constexpr cudaDataType_t cuda_type<f16> = CUDA_R_16F;

/// y = x W^T by cuBLASLt. Row-major matrices are column-major ones transposed: the library computes y^T = W x^T.
class matrix_products {
public:
  static constexpr std::size_t workspace_bytes = std::size_t{32} << 20U;

  explicit matrix_products(fault_box& faults) : faults_(faults) {
    faults_.check(cublasLtCreate(&handle_), "cublasLtCreate");
    workspace_ = memory_.device<unsigned char>(workspace_bytes, faults_);
  }
  matrix_products(const matrix_products&) = delete;
  matrix_products& operator=(const matrix_products&) = delete;
  ~matrix_products() {
    for (auto& [key, p] : plans_) {
      for (auto* layout : {p.w, p.x, p.y})
        if (layout != nullptr) cublasLtMatrixLayoutDestroy(layout);
      if (p.operation != nullptr) cublasLtMatmulDescDestroy(p.operation);
    }
    if (handle_ != nullptr) cublasLtDestroy(handle_);
  }

  template <class T>
  void run(const product<T>& p, cudaStream_t stream) {
    if (faults_.bad()) return;
    const plan* found = find(p);
    if (found == nullptr) return;
    const float one = 1.0F;
    const float added = p.adds ? 1.0F : 0.0F;
    faults_.check(cublasLtMatmul(handle_, found->operation, &one, p.w, found->w, p.x, found->x, &added, p.y, found->y,
                      p.y, found->y, &found->algorithm, workspace_, workspace_bytes, stream),
        "cublasLtMatmul");
  }

private:
  struct plan {
    cublasLtMatmulDesc_t operation{};
    cublasLtMatrixLayout_t w{}, x{}, y{};
    cublasLtMatmulAlgo_t algorithm{};
  };
  using shape_key = std::tuple<std::uint32_t, std::uint32_t, std::uint32_t, bool, bool>;

  template <class T>
  const plan* find(const product<T>& p) {
    const std::uint32_t rows = padded_rows(p.rows);
    const auto [at, fresh] = plans_.try_emplace(shape_key{p.n, p.k, rows, p.wide, p.adds});
    if (fresh && !make(at->second, cuda_type<T>, p.wide ? CUDA_R_32F : cuda_type<T>, p.n, p.k, rows)) return nullptr;
    return &at->second;
  }

  bool make(plan& out, cudaDataType_t in, cudaDataType_t result, std::uint64_t n, std::uint64_t k, std::uint64_t rows) {
    const cublasOperation_t transposed = CUBLAS_OP_T;
    cublasLtMatmulPreference_t preference = nullptr;
    const std::size_t limit = workspace_bytes;
    cublasLtMatmulHeuristicResult_t best{};
    int count = 0;
    const bool made =
        faults_.check(cublasLtMatmulDescCreate(&out.operation, CUBLAS_COMPUTE_32F, CUDA_R_32F), "cublasLt") &&
        faults_.check(
            cublasLtMatmulDescSetAttribute(out.operation, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed),
            "cublasLt") &&
        faults_.check(cublasLtMatrixLayoutCreate(&out.w, in, k, n, static_cast<std::int64_t>(k)), "cublasLt") &&
        faults_.check(cublasLtMatrixLayoutCreate(&out.x, in, k, rows, static_cast<std::int64_t>(k)), "cublasLt") &&
        faults_.check(cublasLtMatrixLayoutCreate(&out.y, result, n, rows, static_cast<std::int64_t>(n)), "cublasLt") &&
        faults_.check(cublasLtMatmulPreferenceCreate(&preference), "cublasLt") &&
        faults_.check(cublasLtMatmulPreferenceSetAttribute(
                          preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &limit, sizeof limit),
            "cublasLt") &&
        faults_.check(cublasLtMatmulAlgoGetHeuristic(
                          handle_, out.operation, out.w, out.x, out.y, out.y, preference, 1, &best, &count),
            "cublasLtMatmulAlgoGetHeuristic");
    if (preference != nullptr) cublasLtMatmulPreferenceDestroy(preference);
    if (made && count == 0) faults_.note("cublasLtMatmulAlgoGetHeuristic", "no algorithm for this shape");
    out.algorithm = best.algo;
    return made && count > 0;
  }

  fault_box& faults_;
  cublasLtHandle_t handle_{};
  memory_owner memory_;
  unsigned char* workspace_{};
  std::map<shape_key, plan> plans_; ///< bounded: padded_rows has few values
};

/// A stream that kernels are launched on; skips everything after the first error. When it goes, nothing of it runs any
/// more: memory that it used may go next, and unmapping memory (device_memory.cuh) waits for nothing.
class device_stream {
public:
  explicit device_stream(fault_box& faults) : faults_(faults) {
    faults_.check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
  }
  device_stream(const device_stream&) = delete;
  device_stream& operator=(const device_stream&) = delete;
  ~device_stream() {
    if (stream_ == nullptr) return;
    cudaStreamSynchronize(stream_);
    cudaStreamDestroy(stream_);
  }
  cudaStream_t get() const { return stream_; }

  template <class... Parameters, class... Arguments>
  void launch(void (*kernel)(Parameters...), grid_index grid, unsigned threads, std::size_t shared,
      const Arguments&... arguments) {
    if (faults_.bad()) return;
    cudaLaunchConfig_t how{};
    how.gridDim = dim3(grid.x, grid.y, grid.z);
    how.blockDim = dim3(threads);
    how.dynamicSmemBytes = shared;
    how.stream = stream_;
    // Not <<<>>> and cudaGetLastError: that tells of whatever failed last on this thread (an allocation that was too
    // large, say), and this launch would be taken for it.
    faults_.check(cudaLaunchKernelEx(&how, kernel, static_cast<Parameters>(arguments)...), "kernel launch");
  }
  void copy(void* to, const void* from, std::size_t bytes) {
    if (!faults_.bad()) faults_.check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream_), "cudaMemcpyAsync");
  }
  void call(cudaHostFn_t function, void* user) {
    if (!faults_.bad()) faults_.check(cudaLaunchHostFunc(stream_, function, user), "cudaLaunchHostFunc");
  }
  void record(cudaEvent_t event) {
    if (!faults_.bad()) faults_.check(cudaEventRecord(event, stream_), "cudaEventRecord");
  }
  void wait() { faults_.check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize"); }

private:
  fault_box& faults_;
  cudaStream_t stream_{};
};

/// An event, for waiting or (`timed`) for measuring.
class device_event {
public:
  device_event(fault_box& faults, bool timed) {
    faults.check(
        cudaEventCreateWithFlags(&event_, timed ? cudaEventDefault : cudaEventDisableTiming), "cudaEventCreate");
  }
  device_event(const device_event&) = delete;
  device_event& operator=(const device_event&) = delete;
  ~device_event() {
    if (event_ != nullptr) cudaEventDestroy(event_);
  }
  cudaEvent_t get() const { return event_; }

private:
  cudaEvent_t event_{};
};

} // namespace hflex::cuda
