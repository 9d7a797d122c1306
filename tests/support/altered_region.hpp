// A copy of a weight region in which a test changes numbers, as a checkpoint could have had them.
#pragma once
#include "gpu/model/packed_model.hpp"
#include "gpu/weights.hpp"
#include <cstring>

namespace hflex::test {

class altered_region final : public gpu::weight_region {
public:
  explicit altered_region(const gpu::weight_region& from)
      : bytes_(from.data().begin(), from.data().end()), digest_(from.digest() + " altered"),
        places_(gpu::layout_region(gpu::packed_model(from).config())->tensors) {}

  const std::string& digest() const override { return digest_; }
  std::uint64_t bytes() const override { return bytes_.size(); }
  int fd() const override { return -1; }
  std::span<const std::byte> data() const override { return bytes_; }
  const std::vector<gpu::tensor_place>& places() const { return places_; }

  /// The element at `index` of a tensor, as it is stored there: std::uint16_t (bf16) or float.
  template <class Element>
  void put(gpu::tensor_kind kind, std::uint32_t layer, std::size_t index, Element value) {
    for (const auto& place : places_)
      if (place.kind == kind && place.layer == layer)
        std::memcpy(bytes_.data() + place.offset + index * sizeof(Element), &value, sizeof(Element));
  }

private:
  std::vector<std::byte> bytes_;
  std::string digest_;
  std::vector<gpu::tensor_place> places_;
};

} // namespace hflex::test
