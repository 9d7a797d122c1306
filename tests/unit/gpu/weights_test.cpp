// Weight regions: packing, sealing, sharing, and what happens to regions and checkpoints that are not what they say.
#include "gpu/model/checkpoint.hpp"
#include "gpu/model/region_head.hpp"
#include "gpu/region_memory.hpp"
#include "gpu/weights.hpp"
#include "gpu/weights_arrival.hpp"
#include "tests/unit/gpu/engine_fixture.hpp"
#include <cstring>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

namespace hflex::test::weights_test {
namespace {

using namespace hflex::gpu;

constexpr int all_seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL;

/// A memfd of these bytes, as another process would send it.
int foreign_fd(std::span<const std::byte> bytes, int seals = all_seals) {
  const int fd = ::memfd_create("foreign", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  REQUIRE(fd >= 0);
  REQUIRE(::write(fd, bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()));
  REQUIRE(::fcntl(fd, F_ADD_SEALS, seals) == 0);
  return fd;
}

std::vector<std::byte> region_bytes() {
  const auto data = demo_weights()->data();
  return {data.begin(), data.end()};
}

std::string map_error(int fd, const std::string& digest = demo_weights()->digest()) {
  const auto mapped = map_weights(fd, digest);
  if (mapped) return "accepted";
  CHECK(mapped.error().code == errc::reject);
  return mapped.error().message;
}

/// Writes table and header anew after `change`, with checksums and digest that agree with each other.
template <class Change>
std::vector<std::byte> forged_region(Change change) {
  auto bytes = region_bytes();
  region_header header;
  std::memcpy(&header, bytes.data(), sizeof header);
  std::vector<region_entry> entries(header.entry_count);
  std::memcpy(entries.data(), bytes.data() + sizeof header, entries.size() * sizeof(region_entry));
  const std::size_t table_end = sizeof header + entries.size() * sizeof(region_entry);
  std::vector<hash128> sums(read_region_head(bytes).value().sums.size());
  std::memcpy(sums.data(), bytes.data() + table_end, sums.size() * sizeof(hash128));
  change(header, entries);
  header.digest = digest_of(header.config, entries, sums);
  std::memcpy(bytes.data(), &header, sizeof header);
  std::memcpy(bytes.data() + sizeof header, entries.data(),
      std::min(entries.size() * sizeof(region_entry), bytes.size() - sizeof header));
  return bytes;
}

std::string forged_digest(const std::vector<std::byte>& bytes) {
  region_header header;
  std::memcpy(&header, bytes.data(), sizeof header);
  return {header.digest.data(), header.digest.size()};
}

bool closed(int fd) { return ::fcntl(fd, F_GETFD) == -1; }

/// Rewrites model.safetensors with one tensor's header entry changed.
template <class Change>
void edit_tensors(const model_copy& model, Change change) {
  const std::string file = slurp(model.file("model.safetensors"));
  std::uint64_t size{};
  std::memcpy(&size, file.data(), sizeof size);
  auto header = nlohmann::ordered_json::parse(file.substr(8, size));
  change(header);
  const std::string text = header.dump();
  const std::uint64_t length = text.size();
  std::string out(8, '\0');
  std::memcpy(out.data(), &length, sizeof length);
  model.write("model.safetensors", out + text + file.substr(8 + size));
}

} // namespace

TEST_CASE("packing seals the region, reports progress and names its content") {
  std::vector<std::pair<std::uint64_t, std::uint64_t>> calls;
  const auto region =
      load_weights(demo_model(), [&](std::uint64_t done, std::uint64_t total) { calls.emplace_back(done, total); });
  REQUIRE(region.has_value());
  CHECK((*region)->digest().size() == 32);
  CHECK((*region)->digest() == demo_weights()->digest());
  CHECK((*region)->digest() == checkpoint_digest(demo_model()).value());
  CHECK((*region)->bytes() == (*region)->data().size());
  CHECK(::fcntl((*region)->fd(), F_GET_SEALS) == all_seals);
  CHECK(::mmap(nullptr, 4096, PROT_WRITE, MAP_SHARED, (*region)->fd(), 0) == MAP_FAILED);
  CHECK(::ftruncate((*region)->fd(), 0) != 0);
  REQUIRE_FALSE(calls.empty());
  CHECK(std::is_sorted(calls.begin(), calls.end()));
  CHECK(calls.back() == std::pair{(*region)->bytes(), (*region)->bytes()});
}

TEST_CASE("who hears of a region before it is read finds each chunk right as soon as it is here") {
  const auto whole = demo_weights()->data();
  const auto layout = layout_region(packed_model(*demo_weights()).config()).value();
  std::shared_ptr<const weight_region> coming;
  std::vector<bool> seen(layout.chunks());
  const auto look = [&](std::uint64_t done, std::uint64_t total) {
    for (std::uint32_t i = 0; i < layout.chunks(); ++i) {
      const chunk_range chunk{i, i + 1};
      const std::atomic<bool> stopped{true}; // nobody waits
      if (seen[i] || !coming->arrival()->wait(chunk, {}, stopped)) continue;
      seen[i] = true;
      const auto came = coming->data().subspan(layout.chunk_offset(i), layout.chunk_size(i));
      CHECK(std::equal(came.begin(), came.end(), whole.subspan(layout.chunk_offset(i)).begin()));
      if (i + 1 < layout.chunks()) CHECK(done < total);
    }
  };
  load_options options{1, [&](std::shared_ptr<const weight_region> region) { coming = std::move(region); }};
  const auto region = load_weights(demo_model(), look, options).value();
  CHECK(std::count(seen.begin(), seen.end(), true) == layout.chunks());
  CHECK(coming->digest().empty());
  CHECK(packed_model(*coming).config() == packed_model(*region).config());
  CHECK(region->digest() == demo_weights()->digest());
  CHECK(std::equal(whole.begin(), whole.end(), region->data().begin()));
  CHECK(sealed_size(region->fd()).has_value()); // although somebody has it mapped
}

TEST_CASE("a region keeps what was made of it as long as itself") {
  const auto companion = std::make_shared<int>(7);
  auto region = load_weights(demo_model(), {}).value();
  region->keep(companion);
  CHECK(companion.use_count() == 2);
  region.reset();
  CHECK(companion.use_count() == 1);
}

TEST_CASE("sealed memory can be mapped so that its very pages are seen, and it stays sealed") {
  const auto map = map_file(demo_weights()->fd(), demo_weights()->bytes(), map_mode::share);
  REQUIRE(map.has_value());
  CHECK(std::equal(map->bytes().begin(), map->bytes().end(), demo_weights()->data().begin()));
  CHECK(sealed_size(demo_weights()->fd()) == demo_weights()->bytes());
}

TEST_CASE("a region maps in another place and holds the same model") {
  const auto original = demo_weights();
  const auto mapped = map_weights(::dup(original->fd()), original->digest());
  REQUIRE(mapped.has_value());
  CHECK((*mapped)->data().data() != original->data().data());
  CHECK(std::equal(original->data().begin(), original->data().end(), (*mapped)->data().begin()));
  CHECK(packed_model(**mapped).config() == load_model_config(demo_model()).value());
}

TEST_CASE("packed matrices and embeddings hold the checkpoint's values") {
  const auto from = checkpoint::open(demo_model()).value();
  const packed_model model(*demo_weights());
  const auto bf16_at = [](const tensor_view& t, std::size_t i) {
    std::uint16_t bits{};
    std::memcpy(&bits, t.data.data() + i * 2, 2);
    return bits;
  };
  const auto packed_at = [](const packed_matrix& m, std::uint32_t n, std::uint32_t k) {
    return m.panel(n / 64)[(std::size_t{k / 2} * 64 + n % 64) * 2 + k % 2];
  };
  const auto up = from.tensor("model.layers.3.mlp.up_proj.weight").value();
  const auto value = from.tensor("model.layers.3.self_attn.v_proj.weight").value();
  const auto embedding = from.tensor("model.embed_tokens.weight").value();
  const auto& layer = model.layers()[3];
  std::vector<float> row(192);
  for (std::uint32_t n = 0; n < 64; ++n) {
    model.embed(static_cast<token_id>(n * 31), row.data());
    for (std::uint32_t k = 0; k < 192; ++k) {
      REQUIRE(packed_at(layer.gate_up, 512 + n, k) == bf16_at(up, n * 192 + k));
      REQUIRE(packed_at(layer.qkv, 192 + 64 + n, k) == bf16_at(value, n * 192 + k));
      REQUIRE(std::bit_cast<std::uint32_t>(row[k]) >> 16U == bf16_at(embedding, n * 31 * 192 + k));
    }
  }
}

TEST_CASE("a flipped bit anywhere in header, table or tensors is found", "[numbers]") {
  const auto good = region_bytes();
  const packed_model model(*demo_weights());
  const auto layout = layout_region(model.config()).value();
  std::vector<std::size_t> offsets{sizeof(region_header), sizeof(region_header) + 21, layout.bytes - 1};
  for (std::size_t i = 0; i + 4 < sizeof(region_header); i += 3) offsets.push_back(i); // its last 4 bytes are padding
  for (const auto& t : layout.tensors) offsets.push_back(t.offset + t.bytes / 2);
  for (const std::size_t at : offsets) {
    auto bytes = good;
    bytes[at] ^= std::byte{4};
    INFO("offset " << at);
    CHECK(map_error(foreign_fd(bytes)) != "accepted");
  }
}

TEST_CASE("a neighbour that is trusted with its chunks still has to have the right head") {
  auto bytes = region_bytes();
  const auto digest = demo_weights()->digest();
  bytes.back() ^= std::byte{4}; // what nobody reads until it is computed with
  CHECK(map_weights(foreign_fd(bytes), digest, trust::head_only).has_value());
  CHECK_FALSE(map_weights(foreign_fd(bytes), digest).has_value());
  bytes[sizeof(region_header) + 21] ^= std::byte{4};
  CHECK_FALSE(map_weights(foreign_fd(bytes), digest, trust::head_only).has_value());
  CHECK_FALSE(map_weights(foreign_fd(std::span(bytes).first(bytes.size() / 2)), digest, trust::head_only).has_value());
}

TEST_CASE("truncated, grown and empty regions are rejected") {
  const auto good = region_bytes();
  for (const std::size_t size : {std::size_t{1}, sizeof(region_header) - 1, sizeof(region_header), std::size_t{4096},
           good.size() / 2, good.size() - 1})
    CHECK(map_error(foreign_fd(std::span(good).first(size))) != "accepted");
  auto grown = good;
  grown.push_back(std::byte{0});
  CHECK(map_error(foreign_fd(grown)) != "accepted");
  CHECK(map_error(foreign_fd({})) != "accepted");
}

TEST_CASE("regions that could still change are rejected") {
  const auto good = region_bytes();
  for (const int missing : {F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_WRITE, F_SEAL_SEAL})
    CHECK(contains(map_error(foreign_fd(good, all_seals & ~missing)), "not sealed"));
  temp_dir dir;
  dir.write("region", std::string_view(reinterpret_cast<const char*>(good.data()), good.size()));
  CHECK(map_error(::open(dir.file("region").c_str(), O_RDONLY | O_CLOEXEC)) != "accepted");
}

TEST_CASE("a region other than the expected one is rejected") {
  CHECK(contains(map_error(foreign_fd(region_bytes()), std::string(32, '0')), "expected 000"));
  CHECK(map_error(foreign_fd(region_bytes()), "") != "accepted");
}

TEST_CASE("a descriptor is closed when its region is refused") {
  const int fd = foreign_fd(region_bytes(), 0);
  CHECK(map_error(fd) != "accepted");
  CHECK(closed(fd));
  CHECK_FALSE(map_weights(-1, "").has_value());
}

TEST_CASE("regions with consistent checksums and hostile numbers are rejected") {
  const auto refuse = [](auto change) {
    const auto bytes = forged_region(change);
    return map_error(foreign_fd(bytes), forged_digest(bytes));
  };
  using entries = std::vector<region_entry>;
  CHECK(refuse([](region_header&, entries&) {}) == "accepted"); // the forger itself is sound
  CHECK(refuse([](region_header& h, entries&) { h.config.layers = UINT32_MAX; }) != "accepted");
  CHECK(refuse([](region_header& h, entries&) { h.config.vocab = 1U << 24U; }) != "accepted");
  CHECK(refuse([](region_header& h, entries&) { h.config.kv_heads = 0; }) != "accepted");
  CHECK(refuse([](region_header& h, entries&) { h.config.head_dim = 0; }) != "accepted");
  CHECK(refuse([](region_header& h, entries&) { h.config.head_dim = 33; }) != "accepted");
  CHECK(refuse([](region_header& h, entries&) { h.config.heads = UINT32_MAX; }) != "accepted");
  CHECK(refuse([](region_header& h, entries&) { h.config.hidden = 0; }) != "accepted");
  CHECK(refuse([](region_header& h, entries&) { h.config.eos_count = 17; }) != "accepted");
  CHECK(refuse([](region_header& h, entries&) { h.config.eos[0] = 2048; }) != "accepted");
  CHECK(refuse([](region_header& h, entries&) { h.config.bos = -2; }) != "accepted");
  CHECK(refuse([](region_header& h, entries&) { h.config.rope_theta = -1.0F; }) != "accepted");
  CHECK(refuse([](region_header& h, entries&) { h.config.architecture = 4; }) != "accepted");
  CHECK(refuse([](region_header& h, entries&) { h.config.qkv_bias = 1; }) != "accepted"); // the tensors are not there
  CHECK(refuse([](region_header& h, entries&) { h.config.qk_norm = 2; }) != "accepted");
  CHECK(refuse([](region_header& h, entries&) { h.config.rope_type = 3; }) != "accepted");
  CHECK(refuse([](region_header& h, entries&) { h.config.rope_type = 1, h.config.rope_factor = 0.0F; }) != "accepted");
  CHECK(refuse([](region_header& h, entries&) { h.config.rope_type = 2; }) != "accepted");
  CHECK(refuse([](region_header& h, entries&) { h.entry_count = UINT32_MAX; }) != "accepted");
  CHECK(refuse([](region_header& h, entries&) { h.region_bytes = 0; }) != "accepted");
  CHECK(refuse([](region_header&, entries& e) { e[4].offset = UINT64_MAX - 8; }) != "accepted");
  CHECK(refuse([](region_header&, entries& e) { e[4].bytes = UINT64_MAX; }) != "accepted");
  CHECK(refuse([](region_header&, entries& e) { std::swap(e[1], e[7]); }) != "accepted");
  CHECK(refuse([](region_header&, entries& e) { e[2].layer = 5; }) != "accepted");
}

TEST_CASE("a checkpoint that does not fit its configuration is rejected, tensor by tensor") {
  const model_copy model;
  edit_tensors(model, [](nlohmann::ordered_json& header) {
    header["model.layers.3.mlp.up_proj.weight"]["shape"] = {192, 512};
    header["model.layers.2.self_attn.q_proj.bias"] = header["model.layers.2.input_layernorm.weight"];
    header.erase("model.layers.2.input_layernorm.weight");
  });
  const auto loaded = load_weights(model.path(), {});
  REQUIRE_FALSE(loaded.has_value());
  CHECK(loaded.error().code == errc::reject);
  const auto& message = loaded.error().message;
  CHECK(contains(message, "model.layers.3.mlp.up_proj.weight: expected shape [512, 192], found [192, 512]"));
  CHECK(contains(message, "model.layers.2.input_layernorm.weight: missing"));
  CHECK(contains(message, "model.layers.2.self_attn.q_proj.bias: not a tensor"));
  CHECK(checkpoint_digest(model.path()).error().message == loaded.error().message);
}

TEST_CASE("a checkpoint that is truncated while it is packed is an error that names it") {
  model_copy model;
  const auto file = model.file("model.safetensors");
  const auto whole = std::filesystem::file_size(file);
  bool cut = false;
  const auto packed = load_weights(model.path(),
      [&](std::uint64_t, std::uint64_t) {
        if (!std::exchange(cut, true)) std::filesystem::resize_file(file, whole / 2);
      },
      {1});
  CHECK(cut);
  REQUIRE(!packed.has_value());
  CHECK(packed.error().code == errc::reject);
  check_says(packed.error().message, {"model.safetensors", fmt::format("had {} bytes", whole), "truncated"});
}

TEST_CASE("another tensor or another configuration is another digest") {
  const auto demo = demo_weights()->digest();
  const model_copy model;
  CHECK(checkpoint_digest(model.path()).value() == demo);
  std::string file = slurp(model.file("model.safetensors"));
  file[file.size() - 1000] = static_cast<char>(file[file.size() - 1000] ^ 1);
  model.write("model.safetensors", file);
  const auto changed = checkpoint_digest(model.path()).value();
  CHECK(changed != demo);
  CHECK(load_weights(model.path(), {}).value()->digest() == changed);
  const model_copy other;
  auto config = other.read("config.json");
  config["rope_theta"] = 20000.0;
  other.write_json("config.json", config);
  CHECK(checkpoint_digest(other.path()).value() != demo);
}

TEST_CASE("the stamp of a checkpoint's directory changes with its files and only with them") {
  const model_copy model;
  const auto before = checkpoint_stamp(model.path());
  CHECK(!before.empty());
  CHECK(checkpoint_stamp(model.path()) == before);
  model.write("model.safetensors", slurp(model.file("model.safetensors")) + "x");
  CHECK(checkpoint_stamp(model.path()) != before);
  CHECK(checkpoint_stamp(model.path() + "/nothing here").empty());
}

TEST_CASE("an untied head is packed beside the embedding and generates the same when it is equal", "[numbers]") {
  const model_copy model;
  auto config = model.read("config.json");
  config["tie_word_embeddings"] = false;
  model.write_json("config.json", config);
  // Append a copy of the embedding as lm_head.
  const std::string file = slurp(model.file("model.safetensors"));
  std::uint64_t size{};
  std::memcpy(&size, file.data(), sizeof size);
  const auto header = nlohmann::json::parse(file.substr(8, size));
  const auto span = header["model.embed_tokens.weight"]["data_offsets"].get<std::vector<std::size_t>>();
  const std::size_t end = file.size() - 8 - size;
  edit_tensors(model, [&](nlohmann::ordered_json& h) {
    h["lm_head.weight"] = h["model.embed_tokens.weight"];
    h["lm_head.weight"]["data_offsets"] = {end, end + span[1] - span[0]};
  });
  model.write(
      "model.safetensors", slurp(model.file("model.safetensors")) + file.substr(8 + size + span[0], span[1] - span[0]));
  const auto weights = load_weights(model.path(), {});
  if (!weights) FAIL(weights.error().message);
  CHECK((*weights)->digest() != demo_weights()->digest());
  const auto options = engine_options(compute_type::bf16);
  auto untied = llama::make(*weights, options).value();
  auto tied = make_engine(options);
  const tokens prompt{0, 88, 308, 365};
  CHECK(generate(*untied, prompt, 20, block_range(0, 4)) == generate(*tied, prompt, 20, block_range(0, 4)));
}

} // namespace hflex::test::weights_test
