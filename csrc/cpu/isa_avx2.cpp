// Kernels for AVX2 with FMA.
#if defined(__x86_64__)
#include <immintrin.h>
#include <cstring>
#include "kernels.h"  // before the pragma: shared inline code stays at the baseline

#pragma GCC target("avx2,fma")
#define FASTCHAR_ISA avx2
#define FASTCHAR_ISA_AVX2
#include "isa_body.h"

namespace fastchar::cpu {
const Kernels kAvx2{"avx2", avx2::make_table<float>(), avx2::make_table<double>(),
                    avx2::lstm_step<float, BFloat16>,
                    avx2::lstm_generate_step<float, BFloat16>};
}  // namespace fastchar::cpu
#endif
