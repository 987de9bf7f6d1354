// Every op is there twice. `op` has a derivative, which Python registers and the dispatcher
// calls in Python, recorded or not. `op.plain`, an overload, is the same kernel without one:
// what is past autograd, a derivative's own code and compiled graphs, calls that.
#pragma once

#include <torch/csrc/stable/library.h>
#include <string>

namespace fastchar {

inline void define(torch::stable::detail::StableLibrary& m, std::string schema) {
  m.def(schema.c_str());
  m.def(schema.insert(schema.find('('), ".plain").c_str());
}

}  // namespace fastchar

// The launcher `op` as the kernel of both, inside STABLE_TORCH_LIBRARY_IMPL.
#define FASTCHAR_IMPL(m, op)   \
  m.impl(#op, TORCH_BOX(&op)); \
  m.impl(#op ".plain", TORCH_BOX(&op))
