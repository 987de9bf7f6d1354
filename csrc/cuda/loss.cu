// Launchers of linear + cross entropy on CUDA. Tokens come in chunks of at most kChunkLogits
// logits; the products are torch's (cuBLAS). The order of all sums is fixed by the shapes.
#include "loss.cuh"

#include <tuple>
#include <utility>

#include "../registration.h"
#include "launch.h"

namespace fastchar::cuda {
namespace {

constexpr int64_t kChunkLogits = 1 << 23;
constexpr int64_t kBiasRows = 256;  // tokens whose gradients one block of sum_rows adds up
static_assert(kChunkLogits / kBiasRows < 65536, "pieces of a chunk, along the grid's y");

struct Problem {
  Problem(const char* op, const Tensor& input, const Tensor& weight,
          const std::optional<Tensor>& bias, const Tensor& target,
          const std::optional<Tensor>& class_weight, int64_t ignore_index,
          double label_smoothing)
      : op(op),
        input(input),
        weight(weight),
        bias(bias),
        target(target),
        class_weight(class_weight),
        ignore_index(ignore_index),
        label_smoothing(label_smoothing),
        device(input) {
    check_shape(op, "input", input, {kAny, kAny});
    dtype = input.scalar_type();
    N = input.size(0);
    H = input.size(1);
    check_dense_on(input, op, "input", input, dtype, {N, H});
    check_dense_on(input, op, "weight", weight, dtype, {kAny, H});
    C = weight.size(0);
    if (C < 1) fail(op, "weight", "at least one class", shape_of(weight));
    check_dense_on(input, op, "bias", bias, dtype, {C});
    check_dense_on(input, op, "target", target, ScalarType::Long, {N});
    check_dense_on(input, op, "class_weight", class_weight, dtype, {C});
    if (!(label_smoothing >= 0 && label_smoothing <= 1)) {
      fail(op, "label_smoothing", "a number in [0, 1]", label_smoothing);
    }
    chunk = C < kChunkLogits ? kChunkLogits / C : 1;
    if (chunk > N) chunk = N;
  }

  Tensor empty(std::initializer_list<int64_t> sizes) const {
    return torch::stable::new_empty(input, sizes);
  }
  Tensor empty(std::initializer_list<int64_t> sizes, ScalarType other) const {
    return torch::stable::new_empty(input, sizes, other);
  }

  // All but the logits and what comes out.
  template <class T>
  LossParams<T> params() const {
    LossParams<T> p{};
    p.bias = data<T>(bias);
    p.target = data<int64_t>(target);
    p.class_weight = data<T>(class_weight);
    p.N = N;
    p.C = C;
    p.ignore_index = ignore_index;
    p.label_smoothing = label_smoothing;
    return p;
  }

  const char* op;
  const Tensor& input;
  const Tensor& weight;
  const std::optional<Tensor>& bias;
  const Tensor& target;
  const std::optional<Tensor>& class_weight;
  int64_t ignore_index;
  double label_smoothing;
  OnDevice device;
  ScalarType dtype;
  int64_t N, H, C, chunk;
};

struct Gradients {
  Tensor input, weight, bias;
};

Tensor rows(Tensor t, int64_t first, int64_t count) {
  return torch::stable::narrow(t, 0, first, count);
}

// out [columns] = the sum of rows [N, columns].
template <class T, class Out>
void sum_all_rows(const T* from, Out* out, int64_t N, int64_t columns, int64_t piece,
                  cudaStream_t stream) {
  with_pack<T>(
      columns % (16 / static_cast<int64_t>(sizeof(T))) == 0 && aligned_to_16(from),
      [&](auto n) {
        const dim3 grid(static_cast<unsigned>(column_tiles<n>(columns)), blocks_for(N, piece));
        sum_rows<T, Out, n><<<grid, kRowThreads, 0, stream>>>(from, out, N, columns, piece);
      });
}

// Everything for all tokens; p says what is wanted, `gradients` are null without them.
template <class T>
void run(const Problem& q, LossParams<T> p, Gradients* gradients) {
  const int64_t N = q.N, H = q.H, C = q.C;
  const cudaStream_t stream = q.device.stream();
  if (N == 0) {
    if (gradients) {
      torch::stable::zero_(gradients->weight);
      torch::stable::zero_(gradients->bias);
    }
    return;
  }
  const int64_t chunks = (N + q.chunk - 1) / q.chunk;
  const int64_t pieces = (q.chunk + kBiasRows - 1) / kBiasRows;  // of one chunk
  const Tensor weight_t = torch::stable::transpose(q.weight, 0, 1);
  Tensor logits = q.empty({q.chunk, C});
  Tensor weight_parts = q.empty({chunks > 1 && gradients ? chunks : 0, C, H});
  Tensor bias_parts = q.empty({gradients ? chunks * pieces : 0, C}, accumulator(q.dtype));
  p.grad = gradients != nullptr;
  int64_t bias_rows = 0;
  for (int64_t first = 0; first < N; first += q.chunk) {
    const int64_t count = N - first < q.chunk ? N - first : q.chunk;
    const Tensor input = rows(q.input, first, count);
    Tensor chunk_logits = rows(logits, 0, count);
    mm_out(chunk_logits, input, weight_t);
    LossParams<T> part = p;
    part.logits = mutable_data<T>(chunk_logits);
    part.N = count;
    part.target += first;
    if (p.grad_loss) part.grad_loss += first;
    if (p.loss) part.loss += first;
    if (p.wide_loss) part.wide_loss += first;
    loss_rows<T><<<blocks_for(count, kLossRows), kLossRows * kWarp, 0, stream>>>(part);
    if (!gradients) continue;
    Tensor grad_input = rows(gradients->input, first, count);
    mm_out(grad_input, chunk_logits, q.weight);
    Tensor grad_weight = chunks > 1 ? torch::stable::select(weight_parts, 0, first / q.chunk)
                                    : gradients->weight;
    mm_out(grad_weight, torch::stable::transpose(chunk_logits, 0, 1), input);
    sum_all_rows(data<T>(chunk_logits), mutable_data<Acc<T>>(bias_parts) + bias_rows * C, count,
                 C, kBiasRows, stream);
    bias_rows += (count + kBiasRows - 1) / kBiasRows;
  }
  if (!gradients) return;
  sum_all_rows(data<Acc<T>>(bias_parts), mutable_data<T>(gradients->bias), bias_rows, C,
               bias_rows, stream);
  if (chunks > 1) {
    sum_all_rows(data<T>(weight_parts), mutable_data<T>(gradients->weight), chunks, C * H,
                 chunks, stream);
  }
}

Gradients new_gradients(const Problem& q) {
  return {q.empty({q.N, q.H}), q.empty({q.C, q.H}), q.empty({q.C})};
}

Tensor linear_cross_entropy(const Tensor& input, const Tensor& weight,
                            const std::optional<Tensor>& bias, const Tensor& target,
                            const std::optional<Tensor>& class_weight, int64_t ignore_index,
                            double label_smoothing) {
  const Problem q("linear_cross_entropy", input, weight, bias, target, class_weight,
                  ignore_index, label_smoothing);
  Tensor loss = q.empty({q.N});
  with_dtype(q.op, "input", q.dtype, [&](auto zero) {
    using T = decltype(zero);
    auto p = q.params<T>();
    p.loss = mutable_data<T>(loss);
    run(q, p, nullptr);
    check_launch(q.op);
  });
  return loss;
}

std::tuple<Tensor, Tensor, Tensor> linear_cross_entropy_backward(
    const Tensor& grad_loss, const Tensor& input, const Tensor& weight,
    const std::optional<Tensor>& bias, const Tensor& target,
    const std::optional<Tensor>& class_weight, int64_t ignore_index, double label_smoothing) {
  const Problem q("linear_cross_entropy_backward", input, weight, bias, target, class_weight,
                  ignore_index, label_smoothing);
  check_dense_on(input, q.op, "grad_loss", grad_loss, q.dtype, {q.N});
  Gradients gradients = new_gradients(q);
  with_dtype(q.op, "input", q.dtype, [&](auto zero) {
    using T = decltype(zero);
    auto p = q.params<T>();
    p.grad_loss = data<T>(grad_loss);
    run(q, p, &gradients);
    check_launch(q.op);
  });
  return {gradients.input, gradients.weight, gradients.bias};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> linear_cross_entropy_reduced(
    const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
    const Tensor& target, const std::optional<Tensor>& class_weight, int64_t ignore_index,
    double label_smoothing, bool mean, bool grad) {
  const Problem q("linear_cross_entropy_reduced", input, weight, bias, target, class_weight,
                  ignore_index, label_smoothing);
  Tensor loss = q.empty({});
  Gradients gradients =
      grad ? new_gradients(q) : Gradients{q.empty({0}), q.empty({0}), q.empty({0})};
  Tensor wide_loss = q.empty({q.N}, accumulator(q.dtype));
  Tensor partial = q.empty({kSumBlocks}, ScalarType::Double);
  Tensor scale = torch::stable::fill_(q.empty({1}, ScalarType::Double), 1);
  with_dtype(q.op, "input", q.dtype, [&](auto zero) {
    using T = decltype(zero);
    const cudaStream_t stream = q.device.stream();
    auto p = q.params<T>();
    p.wide_loss = mutable_data<Acc<T>>(wide_loss);
    p.grad_scale = data<double>(scale);
    double* sums = mutable_data<double>(partial);
    if (mean) {
      sum_tokens<T><<<kSumBlocks, kSumThreads, 0, stream>>>(p, nullptr, sums);
      invert_sum<<<1, kSumThreads, 0, stream>>>(sums, mutable_data<double>(scale));
    }
    run(q, p, grad ? &gradients : nullptr);
    sum_tokens<T><<<kSumBlocks, kSumThreads, 0, stream>>>(p, p.wide_loss, sums);
    finish_loss<T><<<1, kSumThreads, 0, stream>>>(sums, p.grad_scale, mutable_data<T>(loss));
    check_launch(q.op);
  });
  return {loss, gradients.input, gradients.weight, gradients.bias};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastchar, CUDA, m) {
  FASTCHAR_IMPL(m, linear_cross_entropy);
  FASTCHAR_IMPL(m, linear_cross_entropy_backward);
  FASTCHAR_IMPL(m, linear_cross_entropy_reduced);
}

}  // namespace fastchar::cuda
