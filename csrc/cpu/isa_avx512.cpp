// Kernels for AVX-512 (F, DQ, BW, VL).
#if defined(__x86_64__)
#include <immintrin.h>
#include <cstring>
#include "kernels.h"  // before the pragma: shared inline code stays at the baseline

#pragma GCC target("avx2,fma,avx512f,avx512dq,avx512bw,avx512vl,prefer-vector-width=512")
#define FASTCHAR_ISA avx512
#define FASTCHAR_ISA_AVX512
#include "isa_body.h"

namespace fastchar::cpu {
const Kernels kAvx512{"avx512", avx512::make_table<float>(), avx512::make_table<double>(),
                      avx512::lstm_step<float, BFloat16>,
                      avx512::lstm_generate_step<float, BFloat16>};
}  // namespace fastchar::cpu
#endif
