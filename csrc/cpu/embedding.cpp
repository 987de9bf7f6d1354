// Launchers of the embedding kernels on the CPU.
#include <torch/csrc/stable/ops.h>
#include <atomic>
#include <cstring>
#include <vector>

#include "../check.h"
#include "../ids.h"
#include "../parallel.h"
#include "../registration.h"
#include "dispatch.h"
#include "launchers.h"
#include "output.h"
#include "workspace.h"

namespace fastchar {
namespace {

// Below this many elements a second thread costs more than it saves.
constexpr int64_t kElementsPerMember = 16384;

// Rows of two-byte numbers, whose bits nobody has to understand.
void copy_halves(const Tensor& weight, const int64_t* ids, Tensor& out, int64_t N) {
  const int64_t E = weight.size(1);
  const auto* table = data<uint16_t>(weight);
  auto* rows = mutable_data<uint16_t>(out);
  run_team(N * E / kElementsPerMember, [&](const Team& team) {
    for (int64_t n = team.begin(N); n < team.end(N); ++n) {
      std::memcpy(rows + n * E, table + ids[n] * E, sizeof(uint16_t) * E);
    }
  });
}

}  // namespace

Tensor embedding(const Tensor& weight, const Tensor& ids_arg, int64_t /*padding_idx*/,
                 bool /*scale_grad_by_freq*/) {
  constexpr const char* op = "embedding";
  check_cpu(op, "weight", weight);
  check_shape(op, "weight", weight, {kAny, kAny});
  const ScalarType dtype = weight.scalar_type();
  const bool halves = dtype == ScalarType::Half || dtype == ScalarType::BFloat16;
  if (!halves) check_real(op, "weight", weight);
  const Tensor ids = as_int64(op, "ids", ids_arg);
  const int64_t N = ids.numel(), V = weight.size(0), E = weight.size(1);

  std::vector<int64_t> sizes(ids.sizes().begin(), ids.sizes().end());
  sizes.push_back(E);
  Tensor out = new_output(weight, sizes);
  if (halves) {
    check_id_range(op, "ids", data<int64_t>(ids), N, V);
    copy_halves(weight, data<int64_t>(ids), out, N);
    return out;
  }
  std::atomic<bool> outside{false};
  with_real(dtype, [&](auto zero) {
    using T = decltype(zero);
    const cpu::EmbeddingParams<T> p{
        data<T>(weight), data<int64_t>(ids), mutable_data<T>(out), N, V, E, &outside};
    const auto kernel = cpu::kernels().table(zero).embedding;
    run_team(N * E / kElementsPerMember, [&](const Team& team) { kernel(p, team); });
  });
  if (outside.load()) check_id_range(op, "ids", data<int64_t>(ids), N, V);  // says which one
  return out;
}

Tensor embedding_backward(const Tensor& grad, const Tensor& ids_arg, int64_t num_weights,
                          int64_t padding_idx, bool scale_grad_by_freq) {
  constexpr const char* op = "embedding_backward";
  check_cpu(op, "grad", grad);
  const ScalarType dtype = check_real(op, "grad", grad);
  const Tensor ids = as_int64(op, "ids", ids_arg);
  if (num_weights < 0) fail(op, "num_weights", "a count", num_weights);
  if (grad.dim() != ids.dim() + 1) {
    fail(op, "grad", "one dimension more than ids", shape_of(grad));
  }
  for (int64_t d = 0; d < ids.dim(); ++d) {
    if (grad.size(d) != ids.size(d)) fail(op, "grad", "ids' shape and E", shape_of(grad));
  }
  const int64_t N = ids.numel(), V = num_weights, E = grad.size(ids.dim());
  check_id_range(op, "ids", data<int64_t>(ids), N, V);

  Tensor out = new_output(grad, {V, E});
  with_real(dtype, [&](auto zero) {
    using T = decltype(zero);
    const bool sorts = cpu::embedding_backward_sorts<T>(N, E);
    const int64_t counts_size = scale_grad_by_freq ? V : 0;
    const int64_t order_size = sorts ? cpu::embedding_backward_order(N, V) : 0;
    const int64_t tables_size = sorts ? 0 : (cpu::embedding_backward_chunks(N, V) - 1) * V * E;
    auto* counts = static_cast<int64_t*>(
        cpu::Workspace::get((counts_size + order_size) * static_cast<int64_t>(sizeof(int64_t)) +
                            tables_size * static_cast<int64_t>(sizeof(T))));
    const cpu::EmbeddingBackwardParams<T> p{data<T>(grad),
                                            data<int64_t>(ids),
                                            mutable_data<T>(out),
                                            reinterpret_cast<T*>(counts + counts_size),
                                            scale_grad_by_freq ? counts : nullptr,
                                            sorts ? counts + counts_size : nullptr,
                                            N,
                                            V,
                                            E,
                                            padding_idx};
    const auto kernel = cpu::kernels().table(zero).embedding_backward;
    run_team(N * E / kElementsPerMember, [&](const Team& team) { kernel(p, team); });
  });
  return out;
}

STABLE_TORCH_LIBRARY_IMPL(fastchar, CPU, m) {
  FASTCHAR_IMPL(m, embedding);
  FASTCHAR_IMPL(m, embedding_backward);
}

}  // namespace fastchar
