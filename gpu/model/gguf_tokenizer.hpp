// The tokenizer inside a GGUF file. Says what the tokenizer.json of the same model would say and hands it to the one
// judge of tokenizers (tokenizer_file), so that both formats tokenise alike. Called by tokenizer_file.
#pragma once
#include "gpu/model/gguf.hpp"
#include "gpu/model/tokenizer_file.hpp"
#include <optional>
#include <string>

namespace hflex::gpu {

/// errc::reject names `source` and the key, at the first fault: another model than byte-level BPE ("gpt2") or
/// SentencePiece's ("llama"), a tokenizer.ggml.pre whose regular expressions are not known here, tokens that are not
/// UTF-8 or occur twice, lists of different lengths, scores that are no numbers, whatever read_tokenizer refuses.
result<tokenizer_parts> read_gguf_tokenizer(const gguf_content& content, const std::string& source);

/// The same from the file. Blocks on the disk.
result<tokenizer_parts> load_gguf_tokenizer(const std::string& path);

/// tokenizer.chat_template of the GGUF file that `model` stands for (gguf_path_of). Nothing when it has none, and when
/// `model` stands for no GGUF file or for one that cannot be read: tokenizer::load says why. Blocks on the disk.
std::optional<std::string> gguf_chat_template(const std::string& model);

} // namespace hflex::gpu
