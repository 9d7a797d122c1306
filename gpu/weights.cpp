// Packs checkpoints into sealed shared memory and checks regions that other processes packed.
#include "gpu/weights.hpp"
#include "actors/common/check.hpp"
#include "gpu/model/packed_model.hpp"
#include "gpu/model/tensor_sources.hpp"
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <system_error>
#include <unistd.h>
#include <utility>
#include <xxhash.h>

namespace hflex::gpu {
namespace {

constexpr int required_seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL;

std::string system_message(int error_number) { return std::generic_category().message(error_number); }

class unique_fd {
public:
  explicit unique_fd(int fd) : fd_(fd) {}
  unique_fd(unique_fd&& o) noexcept : fd_(std::exchange(o.fd_, -1)) {}
  unique_fd& operator=(unique_fd&&) = delete;
  ~unique_fd() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }

private:
  int fd_;
};

class mapping {
public:
  mapping(void* at, std::size_t bytes) : at_(static_cast<std::byte*>(at)), bytes_(bytes) {}
  mapping(mapping&& o) noexcept : at_(std::exchange(o.at_, nullptr)), bytes_(o.bytes_) {}
  mapping& operator=(mapping&&) = delete;
  ~mapping() {
    if (at_ != nullptr) ::munmap(at_, bytes_);
  }
  std::span<std::byte> bytes() const { return {at_, bytes_}; }

private:
  std::byte* at_;
  std::size_t bytes_;
};

result<mapping> map_file(int fd, std::size_t bytes, int protection) {
  void* at = ::mmap(nullptr, bytes, protection, MAP_SHARED, fd, 0);
  if (at == MAP_FAILED) return fail(errc::fatal, "mapping {} bytes of weights: {}", bytes, system_message(errno));
  return mapping(at, bytes);
}

class memfd_region final : public weight_region {
public:
  memfd_region(unique_fd fd, mapping map, std::string digest)
      : fd_(std::move(fd)), map_(std::move(map)), digest_(std::move(digest)) {}
  const std::string& digest() const override { return digest_; }
  std::uint64_t bytes() const override { return map_.bytes().size(); }
  int fd() const override { return fd_.get(); }
  std::span<const std::byte> data() const override { return map_.bytes(); }

private:
  unique_fd fd_;
  mapping map_;
  std::string digest_;
};

/// Where packed bytes go: into the region, or, when only the digest is wanted, through a scratch buffer.
class tensor_sink {
public:
  explicit tensor_sink(std::byte* region) : region_(region), hash_(XXH3_createState()) {
    HFLEX_CHECK(hash_ != nullptr);
  }
  tensor_sink(const tensor_sink&) = delete;
  tensor_sink& operator=(const tensor_sink&) = delete;
  ~tensor_sink() { XXH3_freeState(hash_); }

  void begin(std::uint64_t offset) {
    offset_ = offset;
    XXH3_128bits_reset(hash_);
  }
  /// Memory for the next `bytes` of the tensor; zeroed.
  std::byte* next(std::size_t bytes) {
    if (region_ != nullptr) return region_ + offset_;
    scratch_.assign(bytes, std::byte{0});
    return scratch_.data();
  }
  void commit(const std::byte* at, std::size_t bytes) {
    XXH3_128bits_update(hash_, at, bytes);
    offset_ += bytes;
  }
  hash128 checksum() const {
    const XXH128_hash_t h = XXH3_128bits_digest(hash_);
    return {h.low64, h.high64};
  }

private:
  std::byte* region_;
  XXH3_state_t* hash_;
  std::uint64_t offset_{};
  std::vector<std::byte> scratch_;
};

void write_vector(const tensor_place& place, const tensor_source& source, tensor_sink& sink) {
  std::byte* at = sink.next(place.bytes);
  auto* out = reinterpret_cast<float*>(at);
  for (std::uint32_t r = 0; r < place.rows; ++r)
    convert_row_f32(source.row(r), {out + std::size_t{r} * place.columns, place.columns});
  sink.commit(at, place.bytes);
}

void write_rows(const tensor_place& place, const tensor_source& source, tensor_sink& sink) {
  const std::size_t row_bytes = std::size_t{place.columns} * sizeof(std::uint16_t);
  for (std::uint32_t r = 0; r < place.rows; ++r) {
    std::byte* at = sink.next(row_bytes);
    convert_row_bf16(source.row(r), {reinterpret_cast<std::uint16_t*>(at), place.columns});
    sink.commit(at, row_bytes);
  }
}

void write_panels(const tensor_place& place, const tensor_source& source, tensor_sink& sink) {
  const packed_matrix shape{nullptr, place.rows, place.columns};
  const std::size_t elements = shape.panel_elements();
  std::array<source_row, panel_columns> rows;
  for (std::uint32_t p = 0; p < shape.panels(); ++p) {
    for (std::uint32_t i = 0; i < panel_columns; ++i) rows[i] = source.row(p * panel_columns + i);
    std::byte* at = sink.next(elements * sizeof(std::uint16_t));
    pack_panel(rows, place.columns, {reinterpret_cast<std::uint16_t*>(at), elements});
    sink.commit(at, elements * sizeof(std::uint16_t));
  }
}

void write_tensor(const tensor_place& place, const tensor_source& source, tensor_sink& sink) {
  sink.begin(place.offset);
  switch (place.kind) {
  case tensor_kind::final_norm:
  case tensor_kind::attn_norm:
  case tensor_kind::mlp_norm:
  case tensor_kind::qkv_bias:
  case tensor_kind::q_norm:
  case tensor_kind::k_norm:
    return write_vector(place, source, sink);
  case tensor_kind::embedding:
    return write_rows(place, source, sink);
  case tensor_kind::qkv:
  case tensor_kind::o:
  case tensor_kind::gate_up:
  case tensor_kind::down:
  case tensor_kind::head:
    return write_panels(place, source, sink);
  }
}

/// A checkpoint that has been found fit to be packed.
struct packing {
  checkpoint from;
  region_config config;
  region_layout layout;
  std::vector<tensor_source> sources;
};

result<packing> plan_packing(const std::string& model_dir) {
  auto from = checkpoint::open(model_dir);
  if (!from) return pass(from.error());
  auto layout = layout_region(from->config());
  if (!layout) return fail(layout.error().code, "{}: {}", model_dir, layout.error().message);
  auto config = to_region_config(from->config());
  if (!config) return fail(config.error().code, "{}: {}", model_dir, config.error().message);
  auto sources = find_sources(*from, *layout);
  if (!sources) return pass(sources.error());
  return packing{std::move(*from), *config, std::move(*layout), std::move(*sources)};
}

/// Writes all tensors (nowhere when `region` is null) and returns their table.
std::vector<region_entry> write_tensors(const packing& plan, std::byte* region, const progress_callback& progress) {
  tensor_sink sink(region);
  std::vector<region_entry> entries;
  for (std::size_t i = 0; i < plan.layout.tensors.size(); ++i) {
    const tensor_place& place = plan.layout.tensors[i];
    write_tensor(place, plan.sources[i], sink);
    entries.push_back({static_cast<std::uint32_t>(place.kind), place.layer, place.rows, place.columns, place.offset,
        place.bytes, sink.checksum()});
    if (progress) progress(place.offset + place.bytes, plan.layout.bytes);
  }
  return entries;
}

result<unique_fd> create_memfd(std::uint64_t bytes) {
  unique_fd fd(::memfd_create("hflex-weights", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (fd.get() < 0) return fail(errc::fatal, "memfd_create: {}", system_message(errno));
  // fallocate, not ftruncate: memory that is not there is an error now instead of a SIGBUS while packing.
  if (::fallocate(fd.get(), 0, 0, static_cast<off_t>(bytes)) != 0)
    return fail(errc::fatal, "reserving {} bytes of shared memory for weights: {}", bytes, system_message(errno));
  return fd;
}

/// Shared by load_weights and map_weights: from here on the memory cannot change under us.
result<std::shared_ptr<const weight_region>> open_region(unique_fd fd, std::uint64_t bytes, std::string digest) {
  auto map = map_file(fd.get(), bytes, PROT_READ);
  if (!map) return pass(map.error());
  return std::make_shared<const memfd_region>(std::move(fd), std::move(*map), std::move(digest));
}

/// Header, table, checksums and digest of a sealed mapping. errc::reject names what is wrong.
result<std::string> check_region(std::span<const std::byte> bytes) {
  region_header header;
  if (bytes.size() < sizeof header) return fail(errc::reject, "weight region: {} bytes hold no header", bytes.size());
  std::memcpy(&header, bytes.data(), sizeof header);
  if (header.magic != region_magic) return fail(errc::reject, "weight region: not one (magic)");
  if (header.version != region_version)
    return fail(errc::reject, "weight region: version {}, this build reads {}", header.version, region_version);
  auto config = to_model_config(header.config);
  if (!config) return pass(config.error());
  auto layout = layout_region(*config);
  if (!layout) return fail(errc::reject, "weight region: {}", layout.error().message);
  if (header.entry_count != layout->tensors.size() || header.region_bytes != layout->bytes ||
      bytes.size() != layout->bytes)
    return fail(errc::reject, "weight region: {} tensors in {} bytes (file: {}), expected {} in {}", header.entry_count,
        header.region_bytes, bytes.size(), layout->tensors.size(), layout->bytes);
  // The size check above covers the table: the layout begins with it.
  std::vector<region_entry> entries(header.entry_count);
  std::memcpy(entries.data(), bytes.data() + sizeof header, entries.size() * sizeof(region_entry));
  for (std::size_t i = 0; i < entries.size(); ++i) {
    const tensor_place& place = layout->tensors[i];
    const region_entry& e = entries[i];
    if (place != tensor_place{static_cast<tensor_kind>(e.kind), e.layer, e.rows, e.columns, e.offset, e.bytes})
      return fail(errc::reject, "weight region: tensor {} is not where the configuration puts it", i);
    if (checksum_of(bytes.subspan(place.offset, place.bytes)) != e.checksum)
      return fail(errc::reject, "weight region: checksum of tensor {} (layer {}) is wrong", i, place.layer);
  }
  if (digest_of(header.config, entries) != header.digest)
    return fail(errc::reject, "weight region: the digest is not that of the content");
  return std::string(header.digest.data(), header.digest.size());
}

/// Makes a sealed region of what `write` puts after the header; `write` returns the table.
template <class Write>
result<std::shared_ptr<const weight_region>> make_region(
    const region_config& config, const region_layout& layout, const Write& write) {
  auto fd = create_memfd(layout.bytes);
  if (!fd) return pass(fd.error());
  region_header header{region_magic, region_version, 0, layout.bytes, config, {}};
  {
    auto writable = map_file(fd->get(), layout.bytes, PROT_READ | PROT_WRITE);
    if (!writable) return pass(writable.error());
    std::byte* base = writable->bytes().data();
    const std::vector<region_entry> entries = write(base);
    header.entry_count = static_cast<std::uint32_t>(entries.size());
    header.digest = digest_of(header.config, entries);
    std::memcpy(base, &header, sizeof header);
    std::memcpy(base + sizeof header, entries.data(), entries.size() * sizeof(region_entry));
  } // F_SEAL_WRITE is refused while a writable mapping exists
  if (::fcntl(fd->get(), F_ADD_SEALS, required_seals) != 0)
    return fail(errc::fatal, "sealing weights: {}", system_message(errno));
  return open_region(std::move(*fd), layout.bytes, std::string(header.digest.data(), header.digest.size()));
}

/// Small values of either sign, as an initialised network has them; the same for the same seed.
void fill_bf16(std::span<std::uint16_t> out, std::uint64_t& state) {
  for (auto& value : out) {
    state = state * 6364136223846793005U + 1442695040888963407U;
    const auto random = static_cast<std::uint16_t>(state >> 48U);
    value = static_cast<std::uint16_t>((random & 0x807fU) | (random & 0x0100U ? 0x3c80U : 0x3c00U)); // 2^-7 to 2^-5
  }
}

region_entry write_random(const tensor_place& place, std::byte* at, std::uint64_t& state) {
  const bool vector = place.kind == tensor_kind::final_norm || place.kind == tensor_kind::attn_norm ||
                      place.kind == tensor_kind::mlp_norm || place.kind == tensor_kind::qkv_bias ||
                      place.kind == tensor_kind::q_norm || place.kind == tensor_kind::k_norm;
  if (vector)
    std::fill_n(reinterpret_cast<float*>(at), place.columns, 1.0F);
  else
    fill_bf16({reinterpret_cast<std::uint16_t*>(at), place.bytes / sizeof(std::uint16_t)}, state);
  return {static_cast<std::uint32_t>(place.kind), place.layer, place.rows, place.columns, place.offset, place.bytes,
      checksum_of({at, place.bytes})};
}

} // namespace

result<std::shared_ptr<const weight_region>> load_weights(
    const std::string& model_dir, const progress_callback& progress) {
  auto plan = plan_packing(model_dir);
  if (!plan) return pass(plan.error());
  return make_region(plan->config, plan->layout, [&](std::byte* base) { return write_tensors(*plan, base, progress); });
}

result<std::shared_ptr<const weight_region>> random_weights(const model_config& config, std::uint64_t seed) {
  auto layout = layout_region(config);
  if (!layout) return pass(layout.error());
  auto fixed = to_region_config(config);
  if (!fixed) return pass(fixed.error());
  return make_region(*fixed, *layout, [&](std::byte* base) {
    std::vector<region_entry> entries;
    for (const auto& place : layout->tensors) entries.push_back(write_random(place, base + place.offset, seed));
    return entries;
  });
}

result<std::shared_ptr<const weight_region>> map_weights(int fd, const std::string& expected_digest) {
  unique_fd owned(fd);
  const int seals = ::fcntl(fd, F_GET_SEALS);
  if (seals < 0) return fail(errc::reject, "weight region: not a sealable descriptor ({})", system_message(errno));
  if ((seals & required_seals) != required_seals) return fail(errc::reject, "weight region: not sealed against change");
  struct stat status {};
  if (::fstat(fd, &status) != 0) return fail(errc::reject, "weight region: {}", system_message(errno));
  if (!S_ISREG(status.st_mode) || status.st_size <= 0) return fail(errc::reject, "weight region: empty");
  const auto bytes = static_cast<std::uint64_t>(status.st_size);
  auto region = open_region(std::move(owned), bytes, expected_digest);
  if (!region) return region;
  auto digest = check_region((*region)->data());
  if (!digest) return pass(digest.error());
  if (*digest != expected_digest)
    return fail(errc::reject, "weight region: digest {}, expected {}", *digest, expected_digest);
  return region;
}

result<std::string> checkpoint_digest(const std::string& model_dir) {
  auto plan = plan_packing(model_dir);
  if (!plan) return pass(plan.error());
  const auto digest = digest_of(plan->config, write_tensors(*plan, nullptr, {}));
  return std::string(digest.data(), digest.size());
}

std::string checkpoint_stamp(const std::string& model) {
  namespace fs = std::filesystem;
  std::error_code failed;
  std::vector<std::string> files;
  const auto add = [&](const fs::path& path) {
    struct stat status {};
    if (::stat(path.c_str(), &status) != 0 || !S_ISREG(status.st_mode)) return;
    files.push_back(fmt::format("{}:{}:{}:{}:{}.{:09}", path.filename().string(), status.st_dev, status.st_ino,
        status.st_size, status.st_mtim.tv_sec, status.st_mtim.tv_nsec));
  };
  if (fs::is_directory(model, failed)) {
    for (fs::directory_iterator i{model, failed}, end; !failed && i != end; i.increment(failed)) add(i->path());
  } else {
    add(model);
  }
  if (failed || files.empty()) return {};
  std::sort(files.begin(), files.end());
  const auto text = fmt::format("{}", fmt::join(files, "/"));
  const auto hash = XXH3_128bits(text.data(), text.size());
  return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
}

} // namespace hflex::gpu
