// Any bytes as what peers of the data plane send, each parser by itself; the first byte chooses: frames of KV and of
// weights, the head of a weight region, lists of addresses, which rows have arrived. peer_fuzz.cpp has them together.
#include "actors/common/check.hpp"
#include "gpu/model/region_head.hpp"
#include "gpu/transport/coverage.hpp"
#include "gpu/transport/endpoint.hpp"
#include "gpu/transport/frame.hpp"
#include "gpu/transport/weights_frame.hpp"
#include <algorithm>
#include <cstring>

namespace {

using namespace hflex::gpu;
using bytes = std::span<const std::byte>;

template <class T>
T take(bytes& from) {
  T value{};
  std::memcpy(&value, from.data(), std::min(sizeof value, from.size()));
  from = from.subspan(std::min(sizeof value, from.size()));
  return value;
}

/// A header that is understood is the same when it is written again.
void try_frame(bytes in) {
  if (in.size() < frame_header_bytes) return;
  const auto header = decode(in.first<frame_header_bytes>());
  if (!header) return;
  HFLEX_CHECK(header->payload_bytes <= max_payload_bytes);
  std::array<std::byte, frame_header_bytes> again{};
  encode(*header, again);
  HFLEX_CHECK(std::equal(again.begin(), again.end(), in.begin()));
  HFLEX_CHECK(!describe(fault_of(*header), "fuzz").message.empty());
}

void try_weights_frame(bytes in) {
  if (in.size() < weights_frame_bytes) return;
  const auto frame = decode_weights_frame(in.first<weights_frame_bytes>());
  if (!frame) return;
  HFLEX_CHECK(frame->payload <= max_head_bytes);
  const auto again = encode(*frame);
  HFLEX_CHECK(std::equal(again.begin(), again.end(), in.begin()));
}

/// Its digest is made right where possible: nobody guesses one, and what lies behind that check is to be tried too.
void try_region_head(bytes in) {
  std::vector<std::byte> head(in.begin(), in.end());
  region_header header;
  if (head.size() >= sizeof header) {
    std::memcpy(&header, head.data(), sizeof header);
    const auto config = to_model_config(header.config);
    const auto layout = config ? layout_region(*config) : hflex::result<region_layout>{region_layout{}};
    if (config && layout && head.size() >= layout->head_bytes) {
      std::vector<region_entry> entries(layout->tensors.size());
      std::vector<hash128> sums(layout->chunks());
      std::memcpy(entries.data(), head.data() + sizeof header, entries.size() * sizeof(region_entry));
      std::memcpy(sums.data(), head.data() + sizeof header + entries.size() * sizeof(region_entry),
          sums.size() * sizeof(hash128));
      header.digest = digest_of(header.config, entries, sums);
      std::memcpy(head.data(), &header, sizeof header);
    }
  }
  const auto read = read_region_head(head);
  if (!read) return;
  HFLEX_CHECK(read->layout.head_bytes <= head.size() && read->sums.size() == read->layout.chunks());
  for (const auto& t : read->layout.tensors)
    HFLEX_CHECK(t.offset >= read->layout.head_bytes && t.bytes <= read->layout.bytes - t.offset);
}

void try_addresses(bytes in) {
  endpoint_list list(1);
  for (const std::byte b : in) {
    if (b == std::byte{'\n'})
      list.emplace_back();
    else
      list.back() += static_cast<char>(b);
  }
  for (const auto& e : usable_endpoints(list, {}, "me", "here")) {
    HFLEX_CHECK(std::find(list.begin(), list.end(), e.text) != list.end());
    HFLEX_CHECK((e.kind == path_kind::tcp) == (e.port != 0));
  }
  for (const auto& e : weights_endpoints(list)) HFLEX_CHECK(e.port != 0 && !e.address.empty());
}

/// Against the definition: every cell once, none outside.
void try_coverage(bytes in) {
  const std::uint32_t layers = 1 + take<std::uint8_t>(in) % 4;
  const std::uint32_t tokens = 1 + take<std::uint8_t>(in);
  coverage arrived{layers, tokens};
  std::vector<bool> cells(std::size_t{layers} * tokens);
  while (!in.empty()) {
    const auto layer = take<std::uint8_t>(in);
    const bool large = layer >= 0xf0;
    const auto begin = large ? take<std::uint32_t>(in) : take<std::uint8_t>(in);
    const auto count = large ? take<std::uint32_t>(in) : take<std::uint8_t>(in);
    bool fresh = layer < layers && count > 0 && std::uint64_t{begin} + count <= tokens;
    for (std::uint64_t t = begin; fresh && t < std::uint64_t{begin} + count; ++t)
      fresh = !cells[std::size_t{layer} * tokens + t];
    HFLEX_CHECK(arrived.is_new(layer, begin, count) == fresh);
    if (!fresh) continue;
    arrived.mark(layer, begin, count);
    for (std::uint32_t t = begin; t < begin + count; ++t) cells[std::size_t{layer} * tokens + t] = true;
    HFLEX_CHECK(arrived.complete() == (std::find(cells.begin(), cells.end(), false) == cells.end()));
  }
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const bytes in(reinterpret_cast<const std::byte*>(data) + 1, size - 1);
  switch (data[0] % 5) {
  case 0:
    try_frame(in);
    break;
  case 1:
    try_weights_frame(in);
    break;
  case 2:
    try_region_head(in);
    break;
  case 3:
    try_addresses(in);
    break;
  default:
    try_coverage(in);
    break;
  }
  return 0;
}
