// What Python asks of the CUDA library, and tells it, besides the ops.
#include <dlfcn.h>

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
// this machine's is of a major version before; otherwise 0. Asked of the driver itself: the
// runtime's cudaDriverGetVersion starts CUDA, after which no forked process can use a GPU, and
// CUDA_VISIBLE_DEVICES is read no more. This is asked while Python imports.
FASTCHAR_VISIBLE int fastchar_cuda_driver_lacks() {
  void* driver = dlopen("libcuda.so.1", RTLD_LAZY);  // as the runtime opens it
  void* ask = driver ? dlsym(driver, "cuDriverGetVersion") : nullptr;
  int version = 0;
  if (ask) reinterpret_cast<int (*)(int*)>(ask)(&version);
  return version / 1000 >= CUDART_VERSION / 1000 ? 0 : CUDART_VERSION;
}

// Whether the sequences that this thread calls may compute fp32 as TF32: torch's switch, which
// the stable ABI doesn't have. Python says so around each call, so that one without Python (in
// a compiled graph) has full precision.
FASTCHAR_VISIBLE void fastchar_cuda_allow_tf32(int allowed) {
  fastchar::cuda::tf32 = allowed != 0;
}
