// What Python asks of the CUDA library, and tells it, besides the ops.
#include "lstm.h"

#define FASTCHAR_VISIBLE extern "C" __attribute__((visibility("default")))

namespace fastchar::cuda {
namespace {
thread_local bool tf32 = false;
}

bool tf32_allowed() { return tf32; }

}  // namespace fastchar::cuda

// What it was built for.
FASTCHAR_VISIBLE const char* fastchar_cuda_architectures() {
  return FASTCHAR_CUDA_ARCHITECTURES;
}

// The version of CUDA that a driver must know to run what is linked in here, 13000 for 13.0, if
// this machine's is of a major version before; otherwise 0.
FASTCHAR_VISIBLE int fastchar_cuda_driver_lacks() {
  int driver = 0;
  const bool known = cudaDriverGetVersion(&driver) == cudaSuccess;
  return known && driver / 1000 >= CUDART_VERSION / 1000 ? 0 : CUDART_VERSION;
}

// Whether the sequences that this thread calls may compute fp32 as TF32: torch's switch, which
// the stable ABI doesn't have. Python says so around each call, so that one without Python (in
// a compiled graph) has full precision.
FASTCHAR_VISIBLE void fastchar_cuda_allow_tf32(int allowed) {
  fastchar::cuda::tf32 = allowed != 0;
}
