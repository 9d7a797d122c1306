#include "gpu/cuda/context.cuh"

namespace hflex::cuda {

context_maker bf16_maker() { return maker_of<bf16>(); }

} // namespace hflex::cuda
