// fastchar._C: what the build is, and the choice of instruction set. The ops themselves are
// registered with torch's dispatcher by ops.cpp and the launchers when this library is loaded.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "cpu/dispatch.h"

namespace py = pybind11;

PYBIND11_MODULE(_C, m) {
  m.doc() = "fastchar's native library. Import torch before it.";
  m.attr("compiler") = __VERSION__;
  m.attr("torch_target_version") = static_cast<unsigned long long>(TORCH_TARGET_VERSION);
  m.def(
      "isa", [] { return std::string(fastchar::cpu::kernels().isa); },
      "Name of the instruction set in use.");
  m.def("compiled_isas", &fastchar::cpu::compiled_isas,
        "Instruction sets that this library holds kernels for, worst first.");
  m.def("available_isas", &fastchar::cpu::available_isas,
        "Those of them that this machine can run, worst first.");
  m.def("set_isa", &fastchar::cpu::set_isa, py::arg("name"),
        "Switches the instruction set for the process; ValueError if the machine lacks it.");
}
