#include "gpu/model/alphabet.hpp"
#include "gpu/model/utf8.hpp"

namespace hflex::gpu {

void alphabet::spell(std::string_view piece, std::vector<token_id>& out) const {
  if (by_character) return spell_characters(piece, out);
  for (const unsigned char byte : piece) {
    if (bytes[byte] != no_token) out.push_back(bytes[byte]);
  }
}

void alphabet::spell_characters(std::string_view piece, std::vector<token_id>& out) const {
  bool after_unknown = false;
  while (!piece.empty()) {
    const auto character = piece.substr(0, next_utf8(piece).bytes);
    piece.remove_prefix(character.size());
    const auto found = characters.find(code_point(character));
    if (found != characters.end()) {
      out.push_back(found->second);
      after_unknown = false;
    } else if (bytes[0] != no_token) {
      for (const unsigned char byte : character) out.push_back(bytes[byte]);
    } else if (unknown != no_token) {
      if (!after_unknown || !fuse_unknown) out.push_back(unknown);
      after_unknown = true;
    }
  }
}

} // namespace hflex::gpu
