// Packs checkpoints into sealed shared memory and checks regions that other processes packed.
#include "gpu/weights.hpp"
#include "actors/common/check.hpp"
#include "gpu/model/packed_model.hpp"
#include "gpu/model/region_head.hpp"
#include "gpu/model/tensor_sources.hpp"
#include "gpu/region_memory.hpp"
#include "gpu/thread_pool.hpp"
#include "gpu/weights_arrival.hpp"
#include <algorithm>
#include <atomic>
#include <cstring>
#include <filesystem>
#include <fmt/format.h>
#include <mutex>
#include <sys/stat.h>
#include <utility>
#include <xxhash.h>

namespace hflex::gpu {
namespace {

/// Packing and hashing gain nothing from more.
constexpr std::uint32_t max_packing_threads = 16;
/// Output of one piece of work: large enough to pay for being claimed, small enough to share out evenly.
constexpr std::uint64_t piece_bytes = 512U << 10U;

std::uint32_t packing_threads() { return std::min(usable_cores(), max_packing_threads); }

bool is_vector(tensor_kind kind) {
  switch (kind) {
  case tensor_kind::final_norm:
  case tensor_kind::attn_norm:
  case tensor_kind::mlp_norm:
  case tensor_kind::qkv_bias:
  case tensor_kind::q_norm:
  case tensor_kind::k_norm:
    return true;
  case tensor_kind::embedding:
  case tensor_kind::qkv:
  case tensor_kind::o:
  case tensor_kind::gate_up:
  case tensor_kind::down:
  case tensor_kind::head:
    return false;
  }
  return false;
}

/// What a tensor is packed in: a panel, a row of the embedding, or a vector as a whole.
std::uint64_t unit_bytes(const tensor_place& place) {
  if (is_vector(place.kind)) return place.bytes;
  if (place.kind == tensor_kind::embedding) return std::uint64_t{place.columns} * sizeof(std::uint16_t);
  return packed_matrix{nullptr, place.rows, place.columns}.panel_elements() * sizeof(std::uint16_t);
}

/// Some units of one tensor.
struct piece {
  std::size_t tensor{};
  std::uint32_t first{};
  std::uint32_t count{};
};

std::vector<piece> cut(const region_layout& layout) {
  std::vector<piece> pieces;
  for (std::size_t i = 0; i < layout.tensors.size(); ++i) {
    const auto unit = unit_bytes(layout.tensors[i]);
    const auto units = static_cast<std::uint32_t>(layout.tensors[i].bytes / unit);
    const auto most = static_cast<std::uint32_t>(std::max<std::uint64_t>(1, piece_bytes / unit));
    for (std::uint32_t first = 0; first < units; first += most)
      pieces.push_back({i, first, std::min(most, units - first)});
  }
  return pieces;
}

void write_vector(const tensor_place& place, const tensor_source& source, std::byte* at) {
  auto* out = reinterpret_cast<float*>(at);
  for (std::uint32_t r = 0; r < place.rows; ++r)
    convert_row_f32(source.row(r), {out + std::size_t{r} * place.columns, place.columns});
}

void write_panel(const tensor_place& place, const tensor_source& source, std::uint32_t panel, std::byte* at) {
  std::array<source_row, panel_columns> rows;
  for (std::uint32_t i = 0; i < panel_columns; ++i) rows[i] = source.row(panel * panel_columns + i);
  pack_panel(rows, place.columns, {reinterpret_cast<std::uint16_t*>(at), unit_bytes(place) / sizeof(std::uint16_t)});
}

/// Writes a piece to `at`, which is zeroed.
void write_piece(const tensor_place& place, const tensor_source& source, const piece& p, std::byte* at) {
  if (is_vector(place.kind)) return write_vector(place, source, at);
  for (std::uint32_t u = p.first; u < p.first + p.count; ++u, at += unit_bytes(place)) {
    if (place.kind == tensor_kind::embedding)
      convert_row_bf16(source.row(u), {reinterpret_cast<std::uint16_t*>(at), place.columns});
    else
      write_panel(place, source, u, at);
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

/// Rows of its tensor that a piece is made of.
tensor_source source_of(const packing& plan, const piece& p) {
  const auto& place = plan.layout.tensors[p.tensor];
  const auto& all = plan.sources[p.tensor];
  if (is_vector(place.kind)) return all.excerpt(0, place.rows);
  const std::uint32_t rows = place.kind == tensor_kind::embedding ? 1 : panel_columns;
  return all.excerpt(p.first * rows, p.count * rows);
}

/// The checkpoint's share of each piece, read into memory of the thread that packs it; the disk is told some pieces
/// ahead what is wanted, so that it always has several reads to do and none of the threads waits for long.
class piece_reader {
public:
  piece_reader(const packing& plan, const std::vector<piece>& pieces, std::uint32_t threads)
      : plan_(plan), pieces_(pieces), rooms_(threads) {
    std::uint64_t most = 0;
    for (const auto& p : pieces_) most = std::max(most, source_of(plan_, p).bytes());
    for (auto& room : rooms_) room.resize(most);
    for (std::size_t i = 0; i < pieces_ahead; ++i) expect(i);
  }

  /// The rows of a piece, until the same thread's next call.
  result<tensor_source> read(std::size_t piece, std::uint32_t thread) {
    expect(piece + pieces_ahead);
    return source_of(plan_, pieces_[piece]).read(plan_.from, rooms_[thread].data());
  }

private:
  static constexpr std::size_t pieces_ahead = 32; ///< 16 MiB of packed weights
  void expect(std::size_t piece) const {
    if (piece < pieces_.size()) source_of(plan_, pieces_[piece]).expect(plan_.from);
  }

  const packing& plan_;
  const std::vector<piece>& pieces_;
  std::vector<std::vector<std::byte>> rooms_;
};

/// The first failure of what several threads do.
class first_fault {
public:
  explicit operator bool() const { return failed_; }
  void note(const error& e) {
    const std::lock_guard lock(mutex_);
    if (!failed_.exchange(true)) error_ = e;
  }
  result<void> outcome() const { return failed_ ? result<void>{tl::unexpected(error_)} : result<void>{}; }

private:
  std::atomic<bool> failed_{false};
  std::mutex mutex_;
  error error_;
};

/// All memory of the region, by several threads: making pages is most of the cost of writing them for the first time.
result<void> reserve_all(int fd, const region_mapping& map, const region_layout& layout, thread_pool& threads) {
  first_fault fault;
  threads.parallel_for(layout.chunks(), [&](std::uint32_t i, std::uint32_t) {
    const auto begin = i == 0 ? 0 : layout.chunk_offset(i);
    if (fault) return;
    if (auto ok = reserve_memory(fd, map, begin, layout.chunk_offset(i) + layout.chunk_size(i) - begin); !ok)
      fault.note(ok.error());
  });
  return fault.outcome();
}

/// A region's chunks while threads fill them: each is hashed by the thread that wrote the last of it, and is here then.
class chunk_filling {
public:
  chunk_filling(const region_layout& layout, std::span<const std::byte> region)
      : layout_(layout), region_(region), left_(layout.chunks()), sums_(layout.chunks()),
        arrival_(std::make_shared<weights_arrival>(layout.chunks())) {
    for (const auto& t : layout.tensors)
      each_part(t.offset, t.bytes, [&](std::uint32_t chunk, std::uint64_t bytes) { left_[chunk] += bytes; });
  }

  /// So many bytes of a tensor are there. Once for each; any thread.
  void wrote(std::uint64_t offset, std::uint64_t bytes) {
    each_part(offset, bytes, [&](std::uint32_t chunk, std::uint64_t part) {
      if (left_[chunk].fetch_sub(part) != part) return;
      sums_[chunk] = checksum_of(region_.subspan(layout_.chunk_offset(chunk), layout_.chunk_size(chunk)));
      arrival_->put(chunk);
    });
  }
  const std::shared_ptr<weights_arrival>& arrival() const { return arrival_; }
  std::span<const hash128> sums() const { return sums_; } ///< when all is written

private:
  template <class F>
  void each_part(std::uint64_t offset, std::uint64_t bytes, const F& f) const {
    auto at = offset - layout_.head_bytes;
    for (const auto end = at + bytes; at < end;) {
      const auto part = std::min(end - at, weight_chunk_bytes - at % weight_chunk_bytes);
      f(static_cast<std::uint32_t>(at / weight_chunk_bytes), part);
      at += part;
    }
  }

  const region_layout& layout_;
  const std::span<const std::byte> region_;
  std::vector<std::atomic<std::uint64_t>> left_; ///< bytes of tensors that are to be written yet
  std::vector<hash128> sums_;
  std::shared_ptr<weights_arrival> arrival_;
};

/// Fills the region's chunks; the caller hears of progress.
result<void> write_tensors(const packing& plan, thread_pool& threads, std::byte* region, chunk_filling& filling,
    const progress_callback& progress) {
  const auto pieces = cut(plan.layout);
  piece_reader reader(plan, pieces, threads.threads());
  first_fault fault;
  std::atomic<std::uint64_t> done{plan.layout.head_bytes};
  threads.parallel_for(static_cast<std::uint32_t>(pieces.size()), [&](std::uint32_t i, std::uint32_t thread) {
    if (fault) return;
    const piece& p = pieces[i];
    const tensor_place& place = plan.layout.tensors[p.tensor];
    const auto source = reader.read(i, thread);
    if (!source) return fault.note(source.error());
    const auto offset = place.offset + p.first * unit_bytes(place);
    const auto bytes = p.count * unit_bytes(place);
    write_piece(place, *source, p, region + offset);
    filling.wrote(offset, bytes);
    const auto so_far = done += bytes;
    if (progress && thread == 0) progress(so_far, plan.layout.bytes);
  });
  if (!fault && progress) progress(plan.layout.bytes, plan.layout.bytes);
  return fault.outcome();
}

std::vector<hash128> sum_chunks(const region_layout& layout, thread_pool& threads, std::span<const std::byte> region) {
  std::vector<hash128> sums(layout.chunks());
  threads.parallel_for(layout.chunks(), [&](std::uint32_t i, std::uint32_t) {
    sums[i] = checksum_of(region.subspan(layout.chunk_offset(i), layout.chunk_size(i)));
  });
  return sums;
}

/// The memory of `fd` for those who can use a part of it.
result<std::shared_ptr<const weight_region>> coming_region(
    int fd, const region_layout& layout, std::shared_ptr<weights_arrival> arrival) {
  auto again = duplicate(fd);
  if (!again) return pass(again.error());
  return open_region(std::move(*again), layout.bytes, {}, std::move(arrival));
}

/// Makes a sealed region of what `write` puts behind the head.
template <class Write>
result<std::shared_ptr<const weight_region>> make_region(
    const region_config& config, const region_layout& layout, const load_options& options, const Write& write) {
  auto fd = create_region_memory(layout.bytes);
  if (!fd) return pass(fd.error());
  std::string digest;
  {
    auto writable = map_file(fd->get(), layout.bytes, map_mode::write);
    if (!writable) return pass(writable.error());
    thread_pool threads{options.threads > 0 ? std::min(options.threads, max_packing_threads) : packing_threads()};
    if (auto ok = reserve_all(fd->get(), *writable, layout, threads); !ok) return pass(ok.error());
    const auto region = writable->bytes();
    chunk_filling filling(layout, region);
    if (options.coming) {
      write_region_head(region, config, layout, filling.sums()); // without the sums yet
      auto coming = coming_region(fd->get(), layout, filling.arrival());
      if (!coming) return pass(coming.error());
      options.coming(std::move(*coming));
    }
    if (auto written = write(region.data(), threads, filling); !written) return pass(written.error());
    digest = write_region_head(region, config, layout, filling.sums());
  } // a writable mapping forbids the seal
  if (auto sealed = seal_region(fd->get()); !sealed) return pass(sealed.error());
  return open_region(std::move(*fd), layout.bytes, std::move(digest));
}

/// Small values of either sign, as an initialised network has them; the same for the same seed.
void fill_bf16(std::span<std::uint16_t> out, std::uint64_t state) {
  for (auto& value : out) {
    state = state * 6364136223846793005U + 1442695040888963407U;
    const auto random = static_cast<std::uint16_t>(state >> 48U);
    value = static_cast<std::uint16_t>((random & 0x807fU) | (random & 0x0100U ? 0x3c80U : 0x3c00U)); // 2^-7 to 2^-5
  }
}

void write_random(const tensor_place& place, std::byte* at, std::uint64_t seed) {
  if (is_vector(place.kind))
    std::fill_n(reinterpret_cast<float*>(at), std::size_t{place.rows} * place.columns, 1.0F);
  else
    fill_bf16({reinterpret_cast<std::uint16_t*>(at), place.bytes / sizeof(std::uint16_t)}, seed);
}

} // namespace

result<std::shared_ptr<const weight_region>> load_weights(
    const std::string& model_dir, const progress_callback& progress, const load_options& options) {
  auto plan = plan_packing(model_dir);
  if (!plan) return pass(plan.error());
  return make_region(
      plan->config, plan->layout, options, [&](std::byte* base, thread_pool& threads, chunk_filling& filling) {
        return write_tensors(*plan, threads, base, filling, progress);
      });
}

result<std::shared_ptr<const weight_region>> random_weights(const model_config& config, std::uint64_t seed) {
  auto layout = layout_region(config);
  if (!layout) return pass(layout.error());
  auto fixed = to_region_config(config);
  if (!fixed) return pass(fixed.error());
  return make_region(
      *fixed, *layout, {}, [&](std::byte* base, thread_pool& threads, chunk_filling& filling) -> result<void> {
        threads.parallel_for(static_cast<std::uint32_t>(layout->tensors.size()), [&](std::uint32_t i, std::uint32_t) {
          const auto& place = layout->tensors[i];
          write_random(place, base + place.offset, seed * 0x9e3779b97f4a7c15U + i);
          filling.wrote(place.offset, place.bytes);
        });
        return {};
      });
}

result<std::shared_ptr<const weight_region>> map_weights(int fd, const std::string& expected_digest, trust how) {
  unique_fd owned(fd);
  const auto bytes = sealed_size(fd);
  if (!bytes) return pass(bytes.error());
  auto region = open_region(std::move(owned), *bytes, expected_digest);
  if (!region) return region;
  const auto data = (*region)->data();
  auto head = read_region_head(data);
  if (!head) return pass(head.error());
  if (head->layout.bytes != data.size())
    return fail(errc::reject, "weight region: {} bytes, expected {}", data.size(), head->layout.bytes);
  if (head->digest != expected_digest)
    return fail(errc::reject, "weight region: digest {}, expected {}", head->digest, expected_digest);
  if (how == trust::head_only) return region;
  thread_pool threads{packing_threads()};
  const auto sums = sum_chunks(head->layout, threads, data);
  for (std::size_t i = 0; i < sums.size(); ++i)
    if (sums[i] != head->sums[i]) return fail(errc::reject, "weight region: checksum of chunk {} is wrong", i);
  return region;
}

result<std::string> checkpoint_digest(const std::string& model_dir) {
  auto plan = plan_packing(model_dir);
  if (!plan) return pass(plan.error());
  chunk_summer sums;
  std::vector<std::byte> scratch;
  const auto pieces = cut(plan->layout);
  piece_reader reader(*plan, pieces, 1);
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    const piece& p = pieces[i];
    const auto source = reader.read(i, 0);
    if (!source) return pass(source.error());
    const tensor_place& place = plan->layout.tensors[p.tensor];
    const auto begin = place.offset - plan->layout.head_bytes + p.first * unit_bytes(place);
    sums.add_zeros(begin - sums.position());
    scratch.assign(p.count * unit_bytes(place), std::byte{0});
    write_piece(place, *source, p, scratch.data());
    sums.add(scratch);
  }
  std::vector<std::byte> head(plan->layout.head_bytes);
  return write_region_head(head, plan->config, plan->layout, sums.finish());
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
