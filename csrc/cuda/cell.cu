// Launchers of the LSTM cell on CUDA.
#include "cell.cuh"

#include <tuple>

#include "../registration.h"
#include "launch.h"

namespace fastchar::cuda {
namespace {

std::tuple<Tensor, Tensor, Tensor> lstm_cell(const Tensor& gates, const Tensor& c) {
  constexpr const char* op = "lstm_cell";
  check_shape(op, "c", c, {kAny, kAny});
  const int64_t B = c.size(0), H = c.size(1);
  const ScalarType dtype = c.scalar_type();
  const OnDevice device(c);
  check_dense_on(c, op, "c", c, dtype, {B, H});
  check_dense_on(c, op, "gates", gates, dtype, {B, 4 * H});
  Tensor h_new = torch::stable::empty_like(c), c_new = torch::stable::empty_like(c);
  Tensor act = torch::stable::empty_like(gates);
  with_dtype(op, "c", dtype, [&](auto zero) {
    using T = decltype(zero);
    const LstmCellParams<T> p{data<T>(gates),
                              data<T>(c),
                              mutable_data<T>(h_new),
                              mutable_data<T>(c_new),
                              mutable_data<T>(act),
                              B,
                              H};
    if (B * H == 0) return;
    cell_step<T>
        <<<blocks_for(B * H, kPointwiseThreads), kPointwiseThreads, 0, device.stream()>>>(p);
    check_launch(op);
  });
  return {h_new, c_new, act};
}

std::tuple<Tensor, Tensor> lstm_cell_backward(const std::optional<Tensor>& grad_h,
                                              const std::optional<Tensor>& grad_c,
                                              const Tensor& act, const Tensor& c) {
  constexpr const char* op = "lstm_cell_backward";
  check_shape(op, "c", c, {kAny, kAny});
  const int64_t B = c.size(0), H = c.size(1);
  const ScalarType dtype = c.scalar_type();
  const OnDevice device(c);
  check_dense_on(c, op, "c", c, dtype, {B, H});
  check_dense_on(c, op, "act", act, dtype, {B, 4 * H});
  check_dense_on(c, op, "grad_h", grad_h, dtype, {B, H});
  check_dense_on(c, op, "grad_c", grad_c, dtype, {B, H});
  Tensor grad_gates = torch::stable::empty_like(act),
         grad_c_prev = torch::stable::empty_like(c);
  with_dtype(op, "c", dtype, [&](auto zero) {
    using T = decltype(zero);
    const LstmCellBackwardParams<T> p{data<T>(grad_h),
                                      data<T>(grad_c),
                                      data<T>(act),
                                      data<T>(c),
                                      mutable_data<T>(grad_gates),
                                      mutable_data<T>(grad_c_prev),
                                      B,
                                      H};
    if (B * H == 0) return;
    cell_step_backward<T>
        <<<blocks_for(B * H, kPointwiseThreads), kPointwiseThreads, 0, device.stream()>>>(p);
    check_launch(op);
  });
  return {grad_gates, grad_c_prev};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastchar, CUDA, m) {
  FASTCHAR_IMPL(m, lstm_cell);
  FASTCHAR_IMPL(m, lstm_cell_backward);
}

}  // namespace fastchar::cuda
