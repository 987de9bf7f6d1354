// What this machine can do at most, with the instruction set and the threads in use.
#pragma once

#include <cstdint>

namespace fastchar::cpu {

// float32 flops a second of multiply-adds in registers, two flops each, by all threads
// together.
double multiply_add_rate();

// Bytes a second that all threads together load, each `bytes` of its own again and again.
double read_rate(int64_t bytes);

}  // namespace fastchar::cpu
