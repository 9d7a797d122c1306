#include "gpu/cuda/context.cuh"

namespace hflex::cuda {

context_maker f32_maker() { return maker_of<float>(); }

} // namespace hflex::cuda
