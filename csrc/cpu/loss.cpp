// Launchers of linear + cross entropy on the CPU.
#include <torch/csrc/stable/ops.h>
#include <optional>
#include <sstream>
#include <tuple>

#include "../check.h"
#include "../parallel.h"
#include "../registration.h"
#include "dispatch.h"
#include "output.h"
#include "workspace.h"

namespace fastchar {
namespace {

// Below this many multiplications a member more costs more than it saves.
constexpr int64_t kProductsPerMember = 1 << 18;

void check_targets(const char* op, const int64_t* target, int64_t N, int64_t C,
                   int64_t ignore_index) {
  for (int64_t n = 0; n < N; ++n) {
    if ((target[n] >= 0 && target[n] < C) || target[n] == ignore_index) continue;
    std::ostringstream s;
    s << "fastchar::" << op << ": argument 'target': expected targets in 0.." << C - 1
      << " or ignore_index " << ignore_index << ", got " << target[n] << " at position " << n;
    throw std::out_of_range(s.str());
  }
}

// The arguments that forward and backward share, checked. An ignore_index inside 0..C-1 is a
// class that is ignored, as in torch.
struct Problem {
  Problem(const char* op, const Tensor& input, const Tensor& weight,
          const std::optional<Tensor>& bias, const Tensor& target,
          const std::optional<Tensor>& class_weight, int64_t ignore_index,
          double label_smoothing)
      : input(input),
        weight(weight),
        bias(bias),
        target(target),
        class_weight(class_weight),
        ignore_index(ignore_index),
        label_smoothing(label_smoothing) {
    check_shape(op, "input", input, {kAny, kAny});
    dtype = check_real(op, "input", input);
    N = input.size(0);
    H = input.size(1);
    check_dense(op, "input", input, dtype, {N, H});
    check_shape(op, "weight", weight, {kAny, H});
    C = weight.size(0);
    if (C < 1) fail(op, "weight", "at least one class", shape_of(weight));
    check_dense(op, "weight", weight, dtype, {C, H});
    check_dense(op, "bias", bias, dtype, {C});
    check_dense(op, "target", target, ScalarType::Long, {N});
    check_dense(op, "class_weight", class_weight, dtype, {C});
    if (!(label_smoothing >= 0 && label_smoothing <= 1)) {
      fail(op, "label_smoothing", "a number in [0, 1]", label_smoothing);
    }
    check_targets(op, data<int64_t>(target), N, C, ignore_index);
  }

  template <class T>
  cpu::LinearCrossEntropyParams<T> params() const {
    cpu::LinearCrossEntropyParams<T> p{};
    p.input = data<T>(input);
    p.weight = data<T>(weight);
    p.bias = data<T>(bias);
    p.target = data<int64_t>(target);
    p.class_weight = data<T>(class_weight);
    p.N = N;
    p.H = H;
    p.C = C;
    p.ignore_index = ignore_index;
    p.label_smoothing = label_smoothing;
    return p;
  }

  // Runs the kernel with p, whose workspace is set here.
  template <class T>
  void run(cpu::LinearCrossEntropyParams<T> p) const {
    const auto& table = cpu::kernels().table(T{});
    const int size = static_cast<int>(team_size(N * H * C, kProductsPerMember));
    p.workspace = cpu::Workspace::get<T>(table.linear_cross_entropy_workspace(p, size));
    run_team(size, [&](const Team& team) { table.linear_cross_entropy(p, team); });
  }

  const Tensor& input;
  const Tensor& weight;
  const std::optional<Tensor>& bias;
  const Tensor& target;
  const std::optional<Tensor>& class_weight;
  ScalarType dtype;
  int64_t N, H, C, ignore_index;
  double label_smoothing;
};

struct Gradients {
  Tensor input, weight, bias;

  template <class T>
  void into(cpu::LinearCrossEntropyParams<T>& p) {
    p.grad_input = mutable_data<T>(input);
    p.grad_weight = mutable_data<T>(weight);
    p.grad_bias = mutable_data<T>(bias);
  }
};

Gradients new_gradients(const Problem& p) {
  return {new_output(p.input, {p.N, p.H}), new_output(p.input, {p.C, p.H}),
          new_output(p.input, {p.C})};
}

Gradients no_gradients(const Problem& p) {
  const auto none = [&] { return new_output(p.input, {0}); };
  return {none(), none(), none()};
}

Tensor linear_cross_entropy(const Tensor& input, const Tensor& weight,
                            const std::optional<Tensor>& bias, const Tensor& target,
                            const std::optional<Tensor>& class_weight, int64_t ignore_index,
                            double label_smoothing) {
  const Problem problem("linear_cross_entropy", input, weight, bias, target, class_weight,
                        ignore_index, label_smoothing);
  Tensor loss = new_output(input, {problem.N});
  with_real(problem.dtype, [&](auto zero) {
    using T = decltype(zero);
    auto p = problem.params<T>();
    p.loss = mutable_data<T>(loss);
    problem.run(p);
  });
  return loss;
}

std::tuple<Tensor, Tensor, Tensor> linear_cross_entropy_backward(
    const Tensor& grad_loss, const Tensor& input, const Tensor& weight,
    const std::optional<Tensor>& bias, const Tensor& target,
    const std::optional<Tensor>& class_weight, int64_t ignore_index, double label_smoothing) {
  constexpr const char* op = "linear_cross_entropy_backward";
  const Problem problem(op, input, weight, bias, target, class_weight, ignore_index,
                        label_smoothing);
  check_dense(op, "grad_loss", grad_loss, problem.dtype, {problem.N});
  Gradients gradients = new_gradients(problem);
  with_real(problem.dtype, [&](auto zero) {
    using T = decltype(zero);
    auto p = problem.params<T>();
    p.grad_loss = data<T>(grad_loss);
    gradients.into(p);
    problem.run(p);
  });
  return {gradients.input, gradients.weight, gradients.bias};
}

// The mean's denominator: the weight of all tokens that are not ignored.
template <class T>
double total_weight(const cpu::LinearCrossEntropyParams<T>& p) {
  double total = 0;
  for (int64_t n = 0; n < p.N; ++n) {
    if (p.target[n] == p.ignore_index) continue;
    total += p.class_weight ? static_cast<double>(p.class_weight[p.target[n]]) : 1.;
  }
  return total;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> linear_cross_entropy_reduced(
    const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
    const Tensor& target, const std::optional<Tensor>& class_weight, int64_t ignore_index,
    double label_smoothing, bool mean, bool grad) {
  const Problem problem("linear_cross_entropy_reduced", input, weight, bias, target,
                        class_weight, ignore_index, label_smoothing);
  Tensor losses = new_output(input, {problem.N});
  Tensor loss = new_output(input, {});
  Gradients gradients = grad ? new_gradients(problem) : no_gradients(problem);
  with_real(problem.dtype, [&](auto zero) {
    using T = decltype(zero);
    auto p = problem.params<T>();
    const double denominator = mean ? total_weight(p) : 1.;
    p.loss = mutable_data<T>(losses);
    if (grad) gradients.into(p);
    p.grad_scale = 1 / denominator;
    problem.run(p);
    double sum = 0;  // by one thread in the tokens' order: the same bits for any team
    for (int64_t n = 0; n < problem.N; ++n) sum += p.loss[n];
    *mutable_data<T>(loss) = static_cast<T>(sum / denominator);
  });
  return {loss, gradients.input, gradients.weight, gradients.bias};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastchar, CPU, m) {
  FASTCHAR_IMPL(m, linear_cross_entropy);
  FASTCHAR_IMPL(m, linear_cross_entropy_backward);
  FASTCHAR_IMPL(m, linear_cross_entropy_reduced);
}

}  // namespace fastchar
