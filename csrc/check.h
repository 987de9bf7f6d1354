// Argument checks for the launchers. A nested torch call that fails says only "API call
// failed", so everything is checked here first, and every message names the op, the argument,
// what was expected and what came.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/shim_utils.h>
#include <initializer_list>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>

namespace fastchar {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Wildcard in an expected shape: any size.
inline constexpr int64_t kAny = -1;

inline std::string shape_of(const Tensor& t) {
  std::ostringstream s;
  s << '[';
  for (int64_t d = 0; d < t.dim(); ++d) s << (d ? ", " : "") << t.size(d);
  s << ']';
  return s.str();
}

template <class Expected, class Got>
[[noreturn]] void fail(const char* op, const char* arg, const Expected& expected,
                       const Got& got) {
  std::ostringstream s;
  s << "fastchar::" << op << ": argument '" << arg << "': expected " << expected << ", got "
    << got;
  throw std::runtime_error(s.str());
}

// The shape, with kAny where any size goes, e.g. {kAny, 4 * H}.
inline void check_shape(const char* op, const char* arg, const Tensor& t,
                        std::initializer_list<int64_t> sizes) {
  bool same = t.dim() == static_cast<int64_t>(sizes.size());
  int64_t d = 0;
  for (int64_t size : sizes) {
    same = same && (size == kAny || t.size(d) == size);
    ++d;
  }
  if (same) return;
  std::ostringstream s;
  s << "shape [";
  d = 0;
  for (int64_t size : sizes) {
    if (d++) s << ", ";
    if (size == kAny) {
      s << '*';
    } else {
      s << size;
    }
  }
  s << ']';
  fail(op, arg, s.str(), shape_of(t));
}

inline const char* dtype_name(ScalarType t) { return torch::headeronly::toString(t); }

inline void check_dtype(const char* op, const char* arg, const Tensor& t, ScalarType dtype) {
  if (t.scalar_type() != dtype) fail(op, arg, dtype_name(dtype), dtype_name(t.scalar_type()));
}

// float32 or float64: what the native CPU kernels compute in.
inline ScalarType check_real(const char* op, const char* arg, const Tensor& t) {
  const ScalarType dtype = t.scalar_type();
  if (dtype != ScalarType::Float && dtype != ScalarType::Double) {
    fail(op, arg, "Float or Double", dtype_name(dtype));
  }
  return dtype;
}

// Whether t holds float32 numbers in bfloat16.
inline bool is_half_of(const Tensor& t, ScalarType dtype) {
  return dtype == ScalarType::Float && t.scalar_type() == ScalarType::BFloat16;
}

inline void check_ids(const char* op, const char* arg, const Tensor& t) {
  const ScalarType dtype = t.scalar_type();
  if (dtype != ScalarType::Long && dtype != ScalarType::Int) {
    fail(op, arg, "Long or Int", dtype_name(dtype));
  }
}

inline void check_cpu(const char* op, const char* arg, const Tensor& t) {
  if (!t.is_cpu()) fail(op, arg, "a CPU tensor", "one on another device");
}

// Everything at once for a CPU argument of a known dtype and shape; that it is contiguous is
// seen to where launchers are registered.
inline void check_dense(const char* op, const char* arg, const Tensor& t, ScalarType dtype,
                        std::initializer_list<int64_t> sizes) {
  check_cpu(op, arg, t);
  check_dtype(op, arg, t, dtype);
  check_shape(op, arg, t, sizes);
}

inline void check_dense(const char* op, const char* arg, const std::optional<Tensor>& t,
                        ScalarType dtype, std::initializer_list<int64_t> sizes) {
  if (t) check_dense(op, arg, *t, dtype, sizes);
}

// Data pointers; null for an absent optional.
template <class T>
const T* data(const Tensor& t) {
  return static_cast<const T*>(t.const_data_ptr());
}
template <class T>
const T* data(const std::optional<Tensor>& t) {
  return t ? data<T>(*t) : nullptr;
}
template <class T>
T* mutable_data(Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}

// Calls f with a value of the C++ type that `dtype` (Float or Double, see check_real) stands
// for.
template <class F>
auto with_real(ScalarType dtype, const F& f) {
  return dtype == ScalarType::Double ? f(double{}) : f(float{});
}

}  // namespace fastchar
