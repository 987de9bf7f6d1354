// Launchers of the linear layer on many rows, and of its gradients, on the CPU.
#include <torch/csrc/stable/ops.h>
#include <optional>
#include <tuple>

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

}  // namespace

Tensor linear(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias) {
  return product("linear", "input", input, weight, bias, false);
}

Tensor linear_input_grad(const Tensor& grad, const Tensor& weight) {
  return product("linear_input_grad", "grad", grad, weight, std::nullopt, true);
}

std::tuple<Tensor, Tensor> linear_weight_grad(const Tensor& grad, const Tensor& input,
                                              bool need_bias) {
  constexpr const char* op = "linear_weight_grad";
  check_shape(op, "grad", grad, {kAny, kAny});
  const ScalarType dtype = check_real(op, "grad", grad);
  const int64_t M = grad.size(0), N = grad.size(1);
  check_dense(op, "grad", grad, dtype, {M, N});
  check_dense(op, "input", input, dtype, {M, kAny});
  const int64_t K = input.size(1);
  const int64_t of_bias = need_bias ? N : 0;
  if (M == 0) {
    return {torch::stable::new_zeros(grad, {N, K}), torch::stable::new_zeros(grad, {of_bias})};
  }

  Tensor grad_weight = new_output(grad, {N, K}), grad_bias = new_output(grad, {of_bias});
  with_real(dtype, [&](auto zero) {
    using T = decltype(zero);
    const int64_t size = team_size(M * N * K, kProductsPerMember);
    const cpu::LinearWeightGradParams<T> p{
        data<T>(grad),
        data<T>(input),
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

STABLE_TORCH_LIBRARY_IMPL(fastchar, CPU, m) {
  FASTCHAR_IMPL(m, linear);
  FASTCHAR_IMPL(m, linear_input_grad);
  FASTCHAR_IMPL(m, linear_weight_grad);
}

}  // namespace fastchar
