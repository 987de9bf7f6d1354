// fastchar._C: what the build is, and the choice of instruction set. The ops themselves are
// registered with torch's dispatcher by ops.cpp and the launchers when this library is loaded.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "cpu/dispatch.h"
#include "cpu/rates.h"

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
  m.def("multiply_add_rate", &fastchar::cpu::multiply_add_rate,
        py::call_guard<py::gil_scoped_release>(),
        "float32 flops a second of multiply-adds in registers, by all threads together.");
  m.def("read_rate", &fastchar::cpu::read_rate, py::arg("bytes"),
        py::call_guard<py::gil_scoped_release>(),
        "Bytes a second that all threads load, each `bytes` of its own again and again.");
}
