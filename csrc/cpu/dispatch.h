// Chooses the instruction set once at load: the best that the machine has, or the one that the
// environment variable FASTCHAR_CPU_ISA names.
#pragma once

#include <string>
#include <vector>

#include "kernels.h"

namespace fastchar::cpu {

// The table in use.
const Kernels& kernels();

// Names of the sets that were compiled in, and of those that this machine can run, worst first.
std::vector<std::string> compiled_isas();
std::vector<std::string> available_isas();

// Switches at run time, for tests and benchmarks. Throws std::invalid_argument for a set that
// the machine lacks. Not to be called while another thread is inside an op.
void set_isa(const std::string& name);

}  // namespace fastchar::cpu
