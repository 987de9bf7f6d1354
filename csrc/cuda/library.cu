// What the CUDA library was built for.
extern "C" __attribute__((visibility("default"))) const char* fastchar_cuda_architectures() {
  return FASTCHAR_CUDA_ARCHITECTURES;
}
