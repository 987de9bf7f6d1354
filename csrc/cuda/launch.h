// What the launchers share: checks of CUDA arguments, the current stream, dtypes, torch
// operations through the stable ABI. Nothing here allocates but through torch, or waits for the
// device, so every op can be captured in a CUDA graph.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "../check.h"
#include "compat.cuh"

namespace fastchar::cuda {

inline void check_launch(const char* op, cudaError_t error) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // which keeps it: the next op would be blamed for it
  throw std::runtime_error(std::string("fastchar::") + op + ": " + cudaGetErrorName(error) +
                           ": " + cudaGetErrorString(error));
}
inline void check_launch(const char* op) { check_launch(op, cudaGetLastError()); }

// Makes the tensor's device the current one while it lives.
class OnDevice {
 public:
  explicit OnDevice(const Tensor& t)
      : index_(static_cast<int32_t>(t.get_device_index())), guard_(index_) {
    // The guard tells torch's CUDA runtime. nvcc links this library one of its own, which
    // launches on the device that it was told of. (A CPU tensor, -1, is refused later, by
    // name.)
    if (index_ >= 0) check_launch("device", cudaSetDevice(index_));
  }

  int index() const { return index_; }
  cudaStream_t stream() const {
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(index_, &stream));
    return static_cast<cudaStream_t>(stream);
  }
  // What the code of `kernel` that runs here was compiled for, 90 for sm_90; 0 if there is
  // none.
  template <class Kernel>
  int architecture(Kernel* kernel) const {
    cudaFuncAttributes about{};
    if (cudaFuncGetAttributes(&about, kernel) == cudaSuccess) return about.ptxVersion;
    cudaGetLastError();  // the launch of what then runs will say it
    return 0;
  }
  int attribute(cudaDeviceAttr name) const {
    int value = 0;
    cudaDeviceGetAttribute(&value, name, index_);
    return value;
  }

 private:
  int32_t index_;
  torch::stable::accelerator::DeviceGuard guard_;
};

// An argument on the device of `like`; as in check.h, that it is contiguous is seen to where
// launchers are registered.
inline void check_dense_on(const Tensor& like, const char* op, const char* arg, const Tensor& t,
                           ScalarType dtype, std::initializer_list<int64_t> sizes) {
  if (!t.is_cuda() || t.get_device_index() != like.get_device_index()) {
    fail(op, arg, "a tensor on the same CUDA device as the others", "one on another device");
  }
  check_dtype(op, arg, t, dtype);
  check_shape(op, arg, t, sizes);
}
inline void check_dense_on(const Tensor& like, const char* op, const char* arg,
                           const std::optional<Tensor>& t, ScalarType dtype,
                           std::initializer_list<int64_t> sizes) {
  if (t) check_dense_on(like, op, arg, *t, dtype, sizes);
}

// An int64 tensor of the same ids on the device of `like`.
inline Tensor ids_on(const Tensor& like, const char* op, const char* arg, const Tensor& ids) {
  check_ids(op, arg, ids);
  if (!ids.is_cuda() || ids.get_device_index() != like.get_device_index()) {
    fail(op, arg, "ids on the same CUDA device as the others", "some on another device");
  }
  return ids.scalar_type() == ScalarType::Long ? ids : torch::stable::to(ids, ScalarType::Long);
}

// Calls f with a value of the C++ type of a floating point dtype that the kernels know.
template <class F>
void with_dtype(const char* op, const char* arg, ScalarType dtype, const F& f) {
  switch (dtype) {
    case ScalarType::Float:
      return f(float{});
    case ScalarType::Double:
      return f(double{});
    case ScalarType::Half:
      return f(half{});
    case ScalarType::BFloat16:
      return f(bfloat16{});
    default:
      fail(op, arg, "Float, Double, Half or BFloat16", dtype_name(dtype));
  }
}

// The dtype that sums of `dtype` are kept in.
inline ScalarType accumulator(ScalarType dtype) {
  return dtype == ScalarType::Double ? dtype : ScalarType::Float;
}

template <class T>
bool aligned_to_16(const T* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
}

// f(std::integral_constant<int, n>) with n the elements of 16 bytes if it is `possible` to read
// rows so, otherwise 1.
template <class T, class F>
void with_pack(bool possible, const F& f) {
  constexpr int n = 16 / sizeof(T);
  if (possible) {
    f(std::integral_constant<int, n>{});
  } else {
    f(std::integral_constant<int, 1>{});
  }
}

inline unsigned blocks_for(int64_t items, int64_t per_block) {
  return static_cast<unsigned>((items + per_block - 1) / per_block);
}

// out = a b, by torch (cuBLAS), which follows its own switches for TF32 and reductions.
inline void mm_out(Tensor& out, const Tensor& a, const Tensor& b) {
  std::array<StableIValue, 3> stack{torch::stable::detail::from(a),
                                    torch::stable::detail::from(b),
                                    torch::stable::detail::from(out)};
  TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("aten::mm", "out", stack.data(), TORCH_ABI_VERSION));
  torch::stable::detail::to<Tensor>(stack[0]);  // the same tensor: dropped
}

}  // namespace fastchar::cuda
