// Launchers of the LSTM cell on the CPU.
#include <torch/csrc/stable/ops.h>
#include <tuple>

#include "../check.h"
#include "../parallel.h"
#include "../registration.h"
#include "dispatch.h"
#include "output.h"

namespace fastchar {
namespace {

// Below this many units a second thread costs more than it saves.
constexpr int64_t kUnitsPerMember = 4096;

std::tuple<Tensor, Tensor, Tensor> lstm_cell(const Tensor& gates, const Tensor& c) {
  constexpr const char* op = "lstm_cell";
  check_cpu(op, "c", c);
  check_shape(op, "c", c, {kAny, kAny});
  const ScalarType dtype = check_real(op, "c", c);
  const int64_t B = c.size(0), H = c.size(1);
  check_dense(op, "gates", gates, dtype, {B, 4 * H});

  Tensor h_new = new_output(c, {B, H}), c_new = new_output(c, {B, H});
  Tensor act = new_output(c, {B, 4 * H});
  with_real(dtype, [&](auto zero) {
    using T = decltype(zero);
    const cpu::LstmCellParams<T> p{data<T>(gates),
                                   data<T>(c),
                                   mutable_data<T>(h_new),
                                   mutable_data<T>(c_new),
                                   mutable_data<T>(act),
                                   B,
                                   H};
    const auto kernel = cpu::kernels().table(zero).lstm_cell;
    run_team(B * H / kUnitsPerMember, [&](const Team& team) { kernel(p, team); });
  });
  return {h_new, c_new, act};
}

std::tuple<Tensor, Tensor> lstm_cell_backward(const std::optional<Tensor>& grad_h,
                                              const std::optional<Tensor>& grad_c,
                                              const Tensor& act, const Tensor& c) {
  constexpr const char* op = "lstm_cell_backward";
  check_cpu(op, "c", c);
  check_shape(op, "c", c, {kAny, kAny});
  const ScalarType dtype = check_real(op, "c", c);
  const int64_t B = c.size(0), H = c.size(1);
  check_dense(op, "act", act, dtype, {B, 4 * H});
  check_dense(op, "grad_h", grad_h, dtype, {B, H});
  check_dense(op, "grad_c", grad_c, dtype, {B, H});

  Tensor grad_gates = new_output(c, {B, 4 * H}), grad_c_prev = new_output(c, {B, H});
  with_real(dtype, [&](auto zero) {
    using T = decltype(zero);
    const cpu::LstmCellBackwardParams<T> p{data<T>(grad_h),
                                           data<T>(grad_c),
                                           data<T>(act),
                                           data<T>(c),
                                           mutable_data<T>(grad_gates),
                                           mutable_data<T>(grad_c_prev),
                                           B,
                                           H};
    const auto kernel = cpu::kernels().table(zero).lstm_cell_backward;
    run_team(B * H / kUnitsPerMember, [&](const Team& team) { kernel(p, team); });
  });
  return {grad_gates, grad_c_prev};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastchar, CPU, m) {
  FASTCHAR_IMPL(m, lstm_cell);
  FASTCHAR_IMPL(m, lstm_cell_backward);
}

}  // namespace fastchar
