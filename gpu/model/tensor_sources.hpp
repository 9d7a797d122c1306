// Which checkpoint tensors make up each packed tensor, and whether the checkpoint has them in the right shape. The only
// place that knows which of Hugging Face's names go where. Called by weights.cpp.
#pragma once
#include "gpu/kernels/pack.hpp"
#include "gpu/model/packed_model.hpp"
#include <vector>

namespace hflex::gpu {

/// The rows of one packed tensor: one or more checkpoint tensors stacked, with zero rows in the gaps.
class tensor_source {
public:
  /// The tensor as rows of `columns` elements: a norm is one row, a bias as many rows as it has elements.
  void stack(std::uint32_t first_row, std::uint32_t columns, const tensor_view& tensor);
  /// A row of zeros where no tensor lies. Rows are valid as long as a copy of the checkpoint lives.
  source_row row(std::uint32_t index) const;

  /// What there is of rows [first, first + count): in whole heads where they are stored in pairs.
  tensor_source excerpt(std::uint32_t first, std::uint32_t count) const;
  std::uint64_t bytes() const; ///< that its rows take in the checkpoint
  /// The same rows in `room` of bytes(), read from the checkpoint's files. Valid as long as the room. errc::reject as
  /// checkpoint::read.
  result<tensor_source> read(const checkpoint& from, std::byte* room) const;
  void expect(const checkpoint& from) const;

private:
  struct part {
    std::uint32_t first{};
    std::uint32_t rows{};
    std::size_t row_bytes{};
    const std::byte* data{};
    dtype type{};
    std::uint32_t paired_rows{};
    std::span<const std::byte> bytes() const { return {data, rows * row_bytes}; }
  };
  std::vector<part> parts_;
};

/// One source per tensor of the layout, in its order. errc::reject, one fault a line, for tensors that are missing, of
/// another shape than the configuration asks for, or of no use to this engine (a bias that would be dropped in
/// silence).
result<std::vector<tensor_source>> find_sources(const checkpoint& from, const region_layout& layout);

} // namespace hflex::gpu
