#include "actors/common/prefix_hash.hpp"
#include <bit>

namespace hflex {
namespace {

class sip_state {
public:
  explicit sip_state(const hash_key& key)
      : v0_(key.low ^ 0x736f6d6570736575ULL), v1_(key.high ^ 0x646f72616e646f6dULL ^ 0xeeULL),
        v2_(key.low ^ 0x6c7967656e657261ULL), v3_(key.high ^ 0x7465646279746573ULL) {}

  void take(std::uint64_t word) {
    v3_ ^= word;
    round(2);
    v0_ ^= word;
  }

  block_hash finish() {
    block_hash h;
    v2_ ^= 0xeeU;
    round(4);
    h.low = v0_ ^ v1_ ^ v2_ ^ v3_;
    v1_ ^= 0xddU;
    round(4);
    h.high = v0_ ^ v1_ ^ v2_ ^ v3_;
    return h;
  }

private:
  void round(int times) {
    for (; times > 0; --times) {
      v0_ += v1_;
      v2_ += v3_;
      v1_ = std::rotl(v1_, 13) ^ v0_;
      v3_ = std::rotl(v3_, 16) ^ v2_;
      v0_ = std::rotl(v0_, 32);
      v2_ += v1_;
      v0_ += v3_;
      v1_ = std::rotl(v1_, 17) ^ v2_;
      v3_ = std::rotl(v3_, 21) ^ v0_;
      v2_ = std::rotl(v2_, 32);
    }
  }

  std::uint64_t v0_, v1_, v2_, v3_;
};

std::uint64_t word_of(token_id id) { return static_cast<std::uint32_t>(id); }

} // namespace

block_hash chain_hash(const hash_key& key, const block_hash& parent, std::span<const token_id> tokens) {
  sip_state state(key);
  state.take(parent.low);
  state.take(parent.high);
  std::size_t i = 0;
  for (; i + 1 < tokens.size(); i += 2) state.take(word_of(tokens[i]) | word_of(tokens[i + 1]) << 32U);
  // The last word carries the message's length in bytes, modulo 256, in its top byte.
  const std::uint64_t length = sizeof(parent) + tokens.size() * sizeof(token_id);
  state.take(length << 56U | (i < tokens.size() ? word_of(tokens[i]) : 0U));
  return state.finish();
}

} // namespace hflex
