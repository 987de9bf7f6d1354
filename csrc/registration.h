// Every op is there twice. `op` has a derivative, which Python registers and the dispatcher
// calls in Python, recorded or not. `op.plain`, an overload, is the same kernel without one:
// what is past autograd, a derivative's own code and compiled graphs, calls that.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <algorithm>
#include <optional>
#include <string>
#include <vector>

namespace fastchar {

inline void define(torch::stable::detail::StableLibrary& m, std::string schema) {
  m.def(schema.c_str());
  m.def(schema.insert(schema.find('('), ".plain").c_str());
}

inline bool is_dense(const torch::stable::Tensor& x) { return x.is_contiguous(); }
inline bool is_dense(const std::optional<torch::stable::Tensor>& x) {
  return !x || x->is_contiguous();
}
inline bool is_dense(const std::vector<torch::stable::Tensor>& xs) {
  return std::all_of(xs.begin(), xs.end(), [](const auto& x) { return x.is_contiguous(); });
}
template <class T>
bool is_dense(const T&) {
  return true;
}

inline torch::stable::Tensor dense(const torch::stable::Tensor& x) {
  return torch::stable::contiguous(x);
}
inline std::optional<torch::stable::Tensor> dense(
    const std::optional<torch::stable::Tensor>& x) {
  if (!x) return x;
  return torch::stable::contiguous(*x);
}
inline std::vector<torch::stable::Tensor> dense(std::vector<torch::stable::Tensor> xs) {
  for (auto& x : xs) x = dense(x);
  return xs;
}
template <class T>
T dense(const T& x) {
  return x;
}

// The launcher `op`, which takes contiguous tensors. Our callers see to that, but in a compiled
// graph only as far as the strides are true that torch's fakes foretell; its dropout's are not.
template <auto op>
struct Launcher;
template <class Result, class... Args, Result (*op)(Args...)>
struct Launcher<op> {
  static Result call(Args... args) {
    if ((is_dense(args) && ...)) return op(args...);
    return op(dense(args)...);
  }
};

}  // namespace fastchar

// The launcher `op` as the kernel of both, inside STABLE_TORCH_LIBRARY_IMPL.
#define FASTCHAR_IMPL(m, op)                                \
  m.impl(#op, TORCH_BOX(&::fastchar::Launcher<&op>::call)); \
  m.impl(#op ".plain", TORCH_BOX(&::fastchar::Launcher<&op>::call))
