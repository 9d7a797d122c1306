#include "gpu/model/checkpoint.hpp"
#include "actors/common/check.hpp"
#include "gpu/model/gguf_model.hpp"
#include "gpu/model/json_file.hpp"
#include "gpu/model/safetensors.hpp"
#include <algorithm>
#include <filesystem>

namespace hflex::gpu {

struct checkpoint::state {
  std::string path;
  bool gguf{};
  model_config config;
  tensor_files weights;

  const mapped_file* file_of(std::span<const std::byte> part) const {
    const auto& files = weights.files;
    const auto found = std::find_if(files.begin(), files.end(), [&](const auto& f) { return f.holds(part); });
    return found == files.end() ? nullptr : &*found;
  }

  static result<state> open_directory(const std::string& dir) {
    if (const auto missing = missing_model_files(dir, needs_tokenizer::no); !missing.empty()) {
      return fail(errc::reject, "{}", fmt::join(missing, "\n"));
    }
    auto config = load_model_config(dir);
    if (!config) return pass(std::move(config.error()));
    std::vector<std::string> faults;
    auto weights = open_tensor_files(dir, faults);
    if (!faults.empty()) return fail(errc::reject, "{}", fmt::join(faults, "\n"));
    return state{dir, false, std::move(*config), std::move(weights)};
  }

  static result<state> open_gguf_file(const std::string& path) {
    auto opened = open_gguf(path);
    if (!opened) return pass(std::move(opened.error()));
    auto report = gguf_config(opened->content, path);
    if (!report.faults.empty()) return fail(errc::reject, "{}", fmt::join(report.faults, "\n"));
    state out{path, true, report.config, {{}, huggingface_tensors(opened->content, report.config)}};
    out.weights.files.push_back(std::move(opened->file));
    return out;
  }
};

result<checkpoint> checkpoint::open(const std::string& model) {
  const auto gguf = gguf_path_of(model);
  if (!gguf) return pass(gguf.error());
  auto opened = *gguf ? state::open_gguf_file(**gguf) : state::open_directory(model);
  if (!opened) return pass(std::move(opened.error()));
  return checkpoint(std::make_shared<const state>(std::move(*opened)));
}

const std::string& checkpoint::path() const { return state_->path; }

const model_config& checkpoint::config() const { return state_->config; }

result<tensor_view> checkpoint::tensor(std::string_view name) const {
  const auto& tensors = state_->weights.tensors;
  if (const auto at = tensors.find(name); at != tensors.end()) return at->second;
  return fail(errc::reject, "{}: has no tensor {}", state_->path, printable(name_in_file(name)));
}

bool checkpoint::contains(std::string_view name) const {
  return state_->weights.tensors.find(name) != state_->weights.tensors.end();
}

result<void> checkpoint::read(std::span<const std::byte> part, std::byte* to) const {
  const auto* file = state_->file_of(part);
  HFLEX_CHECK(file != nullptr);
  return file->read(part, to);
}

void checkpoint::expect(std::span<const std::byte> part) const {
  const auto* file = state_->file_of(part);
  HFLEX_CHECK(file != nullptr);
  file->expect(part);
}

std::string checkpoint::name_in_file(std::string_view name) const {
  return state_->gguf ? gguf_tensor_name(name) : std::string(name);
}

std::vector<std::string> checkpoint::names() const {
  std::vector<std::string> all;
  for (const auto& item : state_->weights.tensors) all.push_back(item.first);
  return all;
}

std::uint64_t checkpoint::bytes() const {
  std::uint64_t sum = 0;
  for (const auto& item : state_->weights.tensors) sum += item.second.data.size();
  return sum;
}

std::uint64_t checkpoint::parameters() const {
  std::uint64_t sum = 0;
  for (const auto& item : state_->weights.tensors) {
    const auto type = item.second.type;
    sum += item.second.data.size() / bytes_of(type) * elements_of(type);
  }
  return sum;
}

std::vector<std::string> missing_model_files(const std::string& dir, needs_tokenizer tokenizer) {
  namespace fs = std::filesystem;
  constexpr auto wanted = "a model directory holds config.json, tokenizer.json and model.safetensors "
                          "(or model.safetensors.index.json and its shards), or one .gguf file";
  std::error_code ignored;
  if (!fs::is_directory(dir, ignored)) return {fmt::format("{}: is not a directory; {}", dir, wanted)};
  std::vector<std::string> missing;
  const auto want = [&](std::initializer_list<const char*> any_of) {
    for (const auto* name : any_of) {
      if (fs::exists(dir + "/" + name, ignored)) return;
    }
    missing.push_back(fmt::format("{}/{}: is missing; {}", dir, *any_of.begin(), wanted));
  };
  want({"config.json"});
  if (tokenizer == needs_tokenizer::yes) want({"tokenizer.json"});
  want({"model.safetensors", "model.safetensors.index.json"});
  return missing;
}

} // namespace hflex::gpu
