#include "gpu/cuda/context.cuh"

namespace hflex::cuda {

context_maker f16_maker() { return maker_of<f16>(); }

} // namespace hflex::cuda
