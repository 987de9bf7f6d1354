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

// Whether the sequences that this thread calls may compute fp32 as TF32: torch's switch, which
// the stable ABI doesn't have. Python says so around each call, so that one without Python (in
// a compiled graph) has full precision.
FASTCHAR_VISIBLE void fastchar_cuda_allow_tf32(int allowed) {
  fastchar::cuda::tf32 = allowed != 0;
}
