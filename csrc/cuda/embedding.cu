// Launchers of the embedding kernels on CUDA.
#include "embedding.h"

#include <vector>

#include "../registration.h"
#include "embedding.cuh"

namespace fastchar::cuda {
namespace {

Tensor embedding(const Tensor& weight, const Tensor& ids_arg, int64_t /*padding_idx*/,
                 bool /*scale_grad_by_freq*/) {
  constexpr const char* op = "embedding";
  check_shape(op, "weight", weight, {kAny, kAny});
  const int64_t V = weight.size(0), E = weight.size(1);
  const OnDevice device(weight);
  const Tensor ids = ids_on(weight, op, "ids", ids_arg);
  const int64_t N = ids.numel();
  std::vector<int64_t> sizes(ids.sizes().begin(), ids.sizes().end());
  sizes.push_back(E);
  Tensor out = torch::stable::new_empty(weight, sizes);
  with_dtype(op, "weight", weight.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const EmbeddingParams<T> p{
        data<T>(weight), data<int64_t>(ids), mutable_data<T>(out), N, V, E};
    if (N * E == 0) return;
    constexpr int wide = 16 / sizeof(T);
    const bool possible = E % wide == 0 && aligned_to_16(p.weight) && aligned_to_16(p.out);
    with_pack<T>(possible, [&](auto n) {
      const dim3 grid(blocks_for(N, kRowThreads / lanes_per_row<n>(E)),
                      static_cast<unsigned>(column_tiles<n>(E)));
      embedding_gather<T, n><<<grid, kRowThreads, 0, device.stream()>>>(p);
    });
    check_launch(op);
  });
  return out;
}

// More ids than the counts in shared memory have room for: torch's own, which sorts.
Tensor sorted_backward(const Tensor& grad, const Tensor& ids, int64_t num_weights,
                       int64_t padding_idx, bool scale_grad_by_freq) {
  using torch::stable::detail::from;
  std::array<StableIValue, 5> stack{from(grad), from(ids), from(num_weights), from(padding_idx),
                                    from(scale_grad_by_freq)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::embedding_dense_backward", "",
                                               stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

template <class T>
void launch_backward(const EmbeddingBackwardParams<T>& p, cudaStream_t stream) {
  const unsigned chunks = static_cast<unsigned>(p.chunks), V = static_cast<unsigned>(p.V);
  const size_t counts = p.V * sizeof(int);
  count_ids<T><<<chunks, kWarp, counts, stream>>>(p);
  scan_chunks<T><<<V, kWarp, 0, stream>>>(p);
  scan_ids<T><<<1, kWarp, 0, stream>>>(p);
  order_tokens<T><<<chunks, kWarp, counts, stream>>>(p);
  with_pack<T>(p.E % (16 / sizeof(T)) == 0 && aligned_to_16(p.grad), [&](auto n) {
    const dim3 grid(static_cast<unsigned>(p.max_pieces),
                    static_cast<unsigned>(column_tiles<n>(p.E)));
    sum_pieces<T, n><<<grid, kRowThreads, 0, stream>>>(p);
  });
  with_pack<Acc<T>>(p.E % (16 / sizeof(Acc<T>)) == 0, [&](auto n) {
    const dim3 grid(V, static_cast<unsigned>(column_tiles<n>(p.E)));
    sum_ids<T, n><<<grid, kRowThreads, 0, stream>>>(p);
  });
}

Tensor embedding_backward(const Tensor& grad, const Tensor& ids_arg, int64_t num_weights,
                          int64_t padding_idx, bool scale_grad_by_freq) {
  constexpr const char* op = "embedding_backward";
  if (num_weights < 0) fail(op, "num_weights", "a count", num_weights);
  if (grad.dim() != ids_arg.dim() + 1) {
    fail(op, "grad", "one dimension more than ids", shape_of(grad));
  }
  for (int64_t d = 0; d < ids_arg.dim(); ++d) {
    if (grad.size(d) != ids_arg.size(d)) fail(op, "grad", "ids' shape and E", shape_of(grad));
  }
  const OnDevice device(grad);
  const Tensor ids = ids_on(grad, op, "ids", ids_arg);
  const int64_t N = ids.numel(), V = num_weights, E = grad.size(ids.dim());
  if (N >= INT32_MAX) fail(op, "ids", "fewer than 2^31 - 1 tokens", N);
  if (N * V * E == 0) return torch::stable::new_zeros(grad, {V, E});
  if (V > kMaxIds) return sorted_backward(grad, ids, V, padding_idx, scale_grad_by_freq);

  Tensor out = torch::stable::new_empty(grad, {V, E});
  with_dtype(op, "grad", grad.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    EmbeddingBackwardParams<T> p{};
    p.grad = data<T>(grad);
    p.ids = data<int64_t>(ids);
    p.grad_weight = mutable_data<T>(out);
    p.N = N;
    p.V = V;
    p.E = E;
    p.padding_idx = padding_idx;
    p.scale_grad_by_freq = scale_grad_by_freq;
    plan_embedding_backward(p);
    const int64_t starts = V * p.chunks, pieces = p.max_pieces;
    Tensor integers =
        torch::stable::new_empty(grad, {starts + V + 2 * (V + 1) + N}, ScalarType::Int);
    Tensor partial =
        torch::stable::new_empty(grad, {pieces, E}, accumulator(grad.scalar_type()));
    p.chunk_start = mutable_data<int>(integers);
    p.id_count = p.chunk_start + starts;
    p.id_start = p.id_count + V;
    p.piece_start = p.id_start + V + 1;
    p.tokens = p.piece_start + V + 1;
    p.partial = mutable_data<Acc<T>>(partial);
    launch_backward(p, device.stream());
    check_launch(op);
  });
  return out;
}

}  // namespace

Tensor scatter_tokens(const Tensor& grad, const Tensor& ids,
                      const std::optional<Tensor>& lengths, int64_t V) {
  if (!lengths) return embedding_backward(grad, ids, V, -1, false);
  const OnDevice device(grad);
  // An id of no row, left out like padding_idx. torch's own gradient has none; there the zeros
  // are added to a row that exists.
  const bool left_out = V <= kMaxIds;
  Tensor masked = torch::stable::empty_like(ids);
  if (ids.numel() > 0) {
    mask_ids<<<blocks_for(ids.numel(), kRowThreads), kRowThreads, 0, device.stream()>>>(
        data<int64_t>(ids), data<int64_t>(*lengths), mutable_data<int64_t>(masked), ids.numel(),
        ids.size(1), left_out ? V : 0);
    check_launch("embedding_backward");
  }
  return embedding_backward(grad, masked, V, left_out ? V : -1, false);
}

STABLE_TORCH_LIBRARY_IMPL(fastchar, CUDA, m) {
  FASTCHAR_IMPL(m, embedding);
  FASTCHAR_IMPL(m, embedding_backward);
}

}  // namespace fastchar::cuda
