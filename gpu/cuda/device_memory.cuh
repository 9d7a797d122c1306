// Device memory that another process of this host can map: the driver's virtual memory management, whose descriptors
// count references. What a process has mapped stays when the process that made it ends, which cudaIpcMemHandle does
// not promise. Where a device cannot do this, plain memory that nobody shares takes its place.
#pragma once
#include "gpu/cuda/stream.cuh"
#include <cuda.h>
#include <memory>
#include <optional>

namespace hflex::cuda {

/// The driver's functions for it, found through the runtime: the plug-in does not link the driver.
struct memory_driver {
  decltype(&cuDeviceGetAttribute) get_attribute{};
  decltype(&cuMemGetAllocationGranularity) granularity{};
  decltype(&cuMemCreate) create{};
  decltype(&cuMemRelease) release{};
  decltype(&cuMemAddressReserve) reserve{};
  decltype(&cuMemAddressFree) free_address{};
  decltype(&cuMemMap) map{};
  decltype(&cuMemUnmap) unmap{};
  decltype(&cuMemSetAccess) set_access{};
  decltype(&cuMemExportToShareableHandle) share{};
  decltype(&cuMemImportFromShareableHandle) adopt{};
  decltype(&cuGetErrorString) error_string{};
  bool complete{};

  static const memory_driver& get() {
    static const memory_driver found = find();
    return found;
  }

  bool check(CUresult r, const char* what, fault_box& faults) const {
    if (r == CUDA_SUCCESS) return true;
    const char* words = nullptr;
    if (error_string(r, &words) != CUDA_SUCCESS || words == nullptr) words = "unknown error";
    faults.note(what, words);
    return false;
  }

private:
  template <class Function>
  static bool look_up(Function& out, const char* name) {
    cudaDriverEntryPointQueryResult found{};
    void* at = nullptr;
    if (cudaGetDriverEntryPointByVersion(name, &at, 12000, cudaEnableDefault, &found) != cudaSuccess ||
        found != cudaDriverEntryPointSuccess)
      return false;
    out = reinterpret_cast<Function>(at);
    return true;
  }
  static memory_driver find() {
    memory_driver d;
    d.complete = look_up(d.get_attribute, "cuDeviceGetAttribute") &&
                 look_up(d.granularity, "cuMemGetAllocationGranularity") && look_up(d.create, "cuMemCreate") &&
                 look_up(d.release, "cuMemRelease") && look_up(d.reserve, "cuMemAddressReserve") &&
                 look_up(d.free_address, "cuMemAddressFree") && look_up(d.map, "cuMemMap") &&
                 look_up(d.unmap, "cuMemUnmap") && look_up(d.set_access, "cuMemSetAccess") &&
                 look_up(d.share, "cuMemExportToShareableHandle") &&
                 look_up(d.adopt, "cuMemImportFromShareableHandle") && look_up(d.error_string, "cuGetErrorString");
    cudaGetLastError(); // what was not found is no fault of later calls
    return d;
  }
};

/// One piece of device memory. The device is current when it is made and when it goes.
class device_memory {
public:
  device_memory(const device_memory&) = delete;
  device_memory& operator=(const device_memory&) = delete;
  ~device_memory() {
    const memory_driver& driver = memory_driver::get();
    if (plain_ != nullptr) cudaFree(plain_);
    if (mapped_) driver.unmap(address_, size_);
    if (address_ != 0) driver.free_address(address_, size_);
    if (handle_) driver.release(*handle_);
  }

  /// Null, and words in `faults`, when there is not as much memory.
  static std::unique_ptr<device_memory> make(std::size_t bytes, int device, fault_box& faults) {
    if (faults.bad()) return nullptr;
    if (auto out = make_shareable(bytes, device)) return out;
    std::unique_ptr<device_memory> out(new device_memory(bytes));
    if (!faults.check(cudaMalloc(&out->plain_, std::max<std::size_t>(1, bytes)), "cudaMalloc")) return nullptr;
    out->own_bytes_ = bytes;
    return out;
  }

  /// Maps, for reading by `device`, what share() of another process gave; `fd` stays the caller's. Null when `device`
  /// cannot reach that memory.
  static std::unique_ptr<device_memory> adopt(int fd, std::size_t bytes, int device, fault_box& faults) {
    if (faults.bad()) return nullptr;
    if (!can_share(device)) {
      faults.note("shared device memory", "this device cannot map any");
      return nullptr;
    }
    std::unique_ptr<device_memory> out(new device_memory(bytes));
    if (!out->round(kind_on(device), faults)) return nullptr;
    const memory_driver& driver = memory_driver::get();
    CUmemGenericAllocationHandle handle{};
    void* descriptor = reinterpret_cast<void*>(static_cast<std::intptr_t>(fd));
    if (!driver.check(driver.adopt(&handle, descriptor, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR),
            "cuMemImportFromShareableHandle", faults))
      return nullptr;
    out->handle_ = handle;
    return out->map(device, CU_MEM_ACCESS_FLAGS_PROT_READ, faults) ? std::move(out) : nullptr;
  }

  /// A descriptor for adopt(), the caller's to close; -1 for plain memory, or when the driver refuses. While anybody
  /// holds it, the memory is not freed.
  int share(fault_box& faults) const {
    if (!handle_) {
      faults.note("shared device memory", "this device cannot give any");
      return -1;
    }
    const memory_driver& driver = memory_driver::get();
    int fd = -1;
    const CUresult r = driver.share(&fd, *handle_, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0);
    return driver.check(r, "cuMemExportToShareableHandle", faults) ? fd : -1;
  }

  std::byte* data() const {
    return plain_ != nullptr ? static_cast<std::byte*>(plain_) : reinterpret_cast<std::byte*>(address_);
  }
  std::size_t bytes() const { return bytes_; }           ///< as asked for
  std::uint64_t own_bytes() const { return own_bytes_; } ///< 0 for another process' memory

private:
  explicit device_memory(std::size_t bytes) : bytes_(bytes) {}

  /// Null for any reason: plain memory is tried then, and says why there is none.
  static std::unique_ptr<device_memory> make_shareable(std::size_t bytes, int device) {
    if (!can_share(device)) return nullptr;
    fault_box tried;
    const memory_driver& driver = memory_driver::get();
    const CUmemAllocationProp kind = kind_on(device);
    std::unique_ptr<device_memory> out(new device_memory(bytes));
    CUmemGenericAllocationHandle handle{};
    if (!out->round(kind, tried) || driver.create(&handle, out->size_, &kind, 0) != CUDA_SUCCESS) return nullptr;
    out->handle_ = handle;
    out->own_bytes_ = out->size_;
    return out->map(device, CU_MEM_ACCESS_FLAGS_PROT_READWRITE, tried) ? std::move(out) : nullptr;
  }

  static CUmemAllocationProp kind_on(int device) {
    CUmemAllocationProp kind{};
    kind.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    kind.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
    kind.location = {CU_MEM_LOCATION_TYPE_DEVICE, device};
    return kind;
  }

  static bool can_share(int device) {
    const memory_driver& driver = memory_driver::get();
    if (!driver.complete) return false;
    for (const auto what : {CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED,
             CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED}) {
      int yes = 0;
      if (driver.get_attribute(&yes, what, device) != CUDA_SUCCESS || yes == 0) return false;
    }
    return true;
  }

  bool round(const CUmemAllocationProp& kind, fault_box& faults) {
    const memory_driver& driver = memory_driver::get();
    std::size_t unit = 0;
    const CUresult r = driver.granularity(&unit, &kind, CU_MEM_ALLOC_GRANULARITY_MINIMUM);
    if (!driver.check(r, "cuMemGetAllocationGranularity", faults)) return false;
    size_ = (std::max<std::size_t>(1, bytes_) + unit - 1) / unit * unit;
    return true;
  }

  bool map(int device, CUmemAccess_flags flags, fault_box& faults) {
    const memory_driver& driver = memory_driver::get();
    if (!driver.check(driver.reserve(&address_, size_, 0, 0, 0), "cuMemAddressReserve", faults)) return false;
    if (!driver.check(driver.map(address_, size_, 0, *handle_, 0), "cuMemMap", faults)) return false;
    mapped_ = true;
    CUmemAccessDesc access{};
    access.location = {CU_MEM_LOCATION_TYPE_DEVICE, device};
    access.flags = flags;
    return driver.check(driver.set_access(address_, size_, &access, 1), "cuMemSetAccess", faults);
  }

  void* plain_{};
  std::optional<CUmemGenericAllocationHandle> handle_;
  CUdeviceptr address_{};
  std::size_t bytes_{};
  std::size_t size_{}; ///< bytes_, rounded up to what the device maps at a time
  std::uint64_t own_bytes_{};
  bool mapped_{};
};

} // namespace hflex::cuda
