#include "actors/common/prefix_hash.hpp"
#include "tests/support/catch.hpp"
#include <vector>

namespace hflex::prefix_hash_test {

namespace {

constexpr hash_key key{0x0706050403020100ULL, 0x0f0e0d0c0b0a0908ULL};
constexpr block_hash parent{0x0706050403020100ULL, 0x0f0e0d0c0b0a0908ULL};
const std::vector<token_id> tokens{0x13121110, 0x17161514, 0x1b1a1918};

} // namespace

TEST_CASE("a block's hash is the 128-bit SipHash-2-4 of its predecessor's hash and its tokens") {
  // From another implementation: key 00..0f, messages 00..17 and 00..1b.
  CHECK(
      chain_hash(key, parent, std::span(tokens).first(2)) == block_hash{0xd850bd78ae79b42dULL, 0xad32618a178a2a88ULL});
  CHECK(chain_hash(key, parent, tokens) == block_hash{0x884b576816da6406ULL, 0xf4ae587302f335b9ULL});
}

TEST_CASE("key, predecessor, tokens and their order all make another hash") {
  const auto h = chain_hash(key, parent, tokens);
  CHECK(chain_hash({key.low + 1, key.high}, parent, tokens) != h);
  CHECK(chain_hash({key.low, key.high + 1}, parent, tokens) != h);
  CHECK(chain_hash(key, {}, tokens) != h);
  CHECK(chain_hash(key, parent, std::vector<token_id>{tokens[1], tokens[0], tokens[2]}) != h);
  CHECK(chain_hash(key, parent, std::vector<token_id>{tokens[0], tokens[1], tokens[2], 0}) != h);
}

} // namespace hflex::prefix_hash_test
