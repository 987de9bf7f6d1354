// Launchers of the linear layer on many rows, and of its gradients, on the CPU.
#include <torch/csrc/stable/ops.h>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "../check.h"
#include "../parallel.h"
#include "../registration.h"
#include "dispatch.h"
#include "launchers.h"
#include "output.h"
#include "workspace.h"

namespace fastchar {
namespace {

// Below this many multiplications a member more costs more than it saves.
constexpr int64_t kProductsPerMember = 1 << 18;

// rows [M, K] times weight [N, K] transposed, or where `transposed` [K, N] as it is.
Tensor product(const char* op, const char* name, const Tensor& rows, const Tensor& weight,
               const std::optional<Tensor>& bias, bool transposed) {
  check_shape(op, name, rows, {kAny, kAny});
  const ScalarType dtype = check_real(op, name, rows);
  const int64_t M = rows.size(0), K = rows.size(1);
  check_dense(op, name, rows, dtype, {M, K});
  if (transposed) {
    check_dense(op, "weight", weight, dtype, {K, kAny});
  } else {
    check_dense(op, "weight", weight, dtype, {kAny, K});
  }
  const int64_t N = weight.size(transposed ? 1 : 0);
  check_dense(op, "bias", bias, dtype, {N});

  Tensor output = new_output(rows, {M, N});
  with_real(dtype, [&](auto zero) {
    using T = decltype(zero);
    const cpu::LinearParams<T> p{data<T>(rows),
                                 data<T>(weight),
                                 data<T>(bias),
                                 mutable_data<T>(output),
                                 cpu::Workspace::get<T>(cpu::linear_packed(N, K)),
                                 M,
                                 N,
                                 K,
                                 transposed};
    const auto kernel = cpu::kernels().table(zero).linear;
    run_team(team_size(M * N * K, kProductsPerMember),
             [&](const Team& team) { kernel(p, team); });
  });
  return output;
}

using Rows = std::vector<Tensor>;

// grads^T @ inputs, rows [M, N] and [M, K] that come in parts, and the sum of grads.
std::tuple<Tensor, Tensor> weight_grad(const char* op, const char* grad, const Rows& grads,
                                       const char* input, const Rows& inputs, bool need_bias) {
  if (grads.empty()) fail(op, grad, "at least one tensor", "none");
  if (inputs.size() != grads.size()) {
    fail(op, input, "as many tensors as in '" + std::string(grad) + "'", inputs.size());
  }
  check_shape(op, grad, grads[0], {kAny, kAny});
  check_shape(op, input, inputs[0], {kAny, kAny});
  const ScalarType dtype = check_real(op, grad, grads[0]);
  const int64_t N = grads[0].size(1), K = inputs[0].size(1);
  int64_t M = 0;
  for (size_t i = 0; i < grads.size(); ++i) {
    check_dense(op, grad, grads[i], dtype, {kAny, N});
    check_dense(op, input, inputs[i], dtype, {grads[i].size(0), K});
    M += grads[i].size(0);
  }
  const int64_t of_bias = need_bias ? N : 0;
  if (M == 0) {
    return {torch::stable::new_zeros(grads[0], {N, K}),
            torch::stable::new_zeros(grads[0], {of_bias})};
  }

  Tensor grad_weight = new_output(grads[0], {N, K}),
         grad_bias = new_output(grads[0], {of_bias});
  with_real(dtype, [&](auto zero) {
    using T = decltype(zero);
    std::vector<cpu::GradRows<T>> rows;
    rows.reserve(grads.size());
    for (size_t i = 0; i < grads.size(); ++i) {
      rows.push_back({data<T>(grads[i]), data<T>(inputs[i]), grads[i].size(0)});
    }
    const int64_t size = team_size(M * N * K, kProductsPerMember);
    const cpu::LinearWeightGradParams<T> p{
        rows.data(),
        mutable_data<T>(grad_weight),
        need_bias ? mutable_data<T>(grad_bias) : nullptr,
        cpu::Workspace::get<T>(size * cpu::linear_grad_scratch<T>()),
        M,
        N,
        K};
    const auto kernel = cpu::kernels().table(zero).linear_weight_grad;
    run_team(size, [&](const Team& team) { kernel(p, team); });
  });
  return {grad_weight, grad_bias};
}

}  // namespace

Tensor linear(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias) {
  return product("linear", "input", input, weight, bias, false);
}

Tensor linear_input_grad(const Tensor& grad, const Tensor& weight) {
  return product("linear_input_grad", "grad", grad, weight, std::nullopt, true);
}

std::tuple<Tensor, Tensor> linear_weight_grad(const Tensor& grad, const Tensor& input,
                                              bool need_bias) {
  return weight_grad("linear_weight_grad", "grad", {grad}, "input", {input}, need_bias);
}

// The same of rows that the steps of a loop left where they were.
std::tuple<Tensor, Tensor> lstm_step_weight_grad(const std::vector<Tensor>& grad_gates,
                                                 const std::vector<Tensor>& input,
                                                 bool need_bias) {
  return weight_grad("lstm_step_weight_grad", "grad_gates", grad_gates, "input", input,
                     need_bias);
}

STABLE_TORCH_LIBRARY_IMPL(fastchar, CPU, m) {
  FASTCHAR_IMPL(m, linear);
  FASTCHAR_IMPL(m, linear_input_grad);
  FASTCHAR_IMPL(m, linear_weight_grad);
  FASTCHAR_IMPL(m, lstm_step_weight_grad);
}

}  // namespace fastchar
