// Kernels in plain C++: whatever the compiler's baseline is.
#include <cstring>

#define FASTCHAR_ISA portable
#include "isa_body.h"

namespace fastchar::cpu {
const Kernels kPortable{"portable", portable::make_table<float>(),
                        portable::make_table<double>(), portable::lstm_step<float, BFloat16>,
                        portable::lstm_generate_step<float, BFloat16>};
}  // namespace fastchar::cpu
