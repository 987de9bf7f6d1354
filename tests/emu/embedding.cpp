// The embedding's kernels against plain loops, over small and odd shapes.
#include "check.h"
#include "embedding.cuh"

using namespace fastchar::cuda;

namespace {

emu::Launch grid(int64_t x, int64_t y, int threads, size_t shared_bytes = 0) {
  emu::Launch config{dim3(static_cast<unsigned>(x), static_cast<unsigned>(y)),
                     static_cast<unsigned>(threads)};
  config.shared_bytes = shared_bytes;
  config.resident = 4;
  return config;
}

std::vector<int64_t> random_ids(int64_t N, int V, bool skewed) {
  std::vector<int64_t> ids(N);
  for (int64_t& id : ids) id = skewed && random_below(3) ? V / 2 : random_below(V);
  return ids;
}

template <class T, int n>
void test_gather(int N, int V, int E) {
  const auto weight = random_values<T>(V * E);
  const auto ids = random_ids(N, V, false);
  std::vector<T> out(N * E);
  const EmbeddingParams<T> p{weight.data(), ids.data(), out.data(), N, V, E};
  const int rows = kRowThreads / lanes_per_row<n>(E);
  emu::launch(grid((N + rows - 1) / rows, column_tiles<n>(E), kRowThreads),
              embedding_gather<T, n>, p);
  std::vector<double> expected(N * E);
  for (int i = 0; i < N * E; ++i) expected[i] = widen(weight[ids[i / E] * E + i % E]);
  expect_close("gather", out, expected, 0);
}

// chunk and piece: other sizes than N tokens would have.
template <class T, int n, int n_acc>
void test_gradient(const std::vector<int64_t>& ids, int V, int E, int64_t padding_idx,
                   bool by_freq, int chunk = 0, int piece = 0) {
  const int N = static_cast<int>(ids.size());
  const auto grad = random_values<T>(N * E);
  std::vector<T> out(V * E);
  EmbeddingBackwardParams<T> p{};
  p.grad = grad.data();
  p.ids = ids.data();
  p.grad_weight = out.data();
  p.N = N;
  p.V = V;
  p.E = E;
  p.padding_idx = padding_idx;
  p.scale_grad_by_freq = by_freq;
  plan_embedding_backward(p);
  if (chunk) p.chunks = (N + chunk - 1) / (p.chunk = chunk);
  if (piece) p.max_pieces = N / (p.piece = piece) + (V < N ? V : N);
  std::vector<int> chunk_start(V * p.chunks), count(V), start(V + 1), pieces(V + 1), tokens(N);
  std::vector<Acc<T>> partial(p.max_pieces * E);
  p.chunk_start = chunk_start.data();
  p.id_count = count.data();
  p.id_start = start.data();
  p.piece_start = pieces.data();
  p.tokens = tokens.data();
  p.partial = partial.data();
  emu::launch(grid(p.chunks, 1, kWarp, V * sizeof(int)), count_ids<T>, p);
  emu::launch(grid(V, 1, kWarp), scan_chunks<T>, p);
  emu::launch(grid(1, 1, kWarp), scan_ids<T>, p);
  emu::launch(grid(p.chunks, 1, kWarp, V * sizeof(int)), order_tokens<T>, p);
  emu::launch(grid(p.max_pieces, column_tiles<n>(E), kRowThreads), sum_pieces<T, n>, p);
  emu::launch(grid(V, column_tiles<n_acc>(E), kRowThreads), sum_ids<T, n_acc>, p);

  std::vector<double> expected(V * E), occurrences(V + 1);
  for (int64_t id : ids) occurrences[id] += 1;
  for (int i = 0; i < N * E; ++i) {
    const int64_t id = ids[i / E];
    if (id == padding_idx) continue;
    expected[id * E + i % E] += widen(grad[i]) / (by_freq ? occurrences[id] : 1);
  }
  expect_close("gradient", out, expected, 8);
}

template <class T, int n, int n_acc>
void test_gradient(int N, int V, int E, int64_t padding_idx, bool by_freq, bool skewed) {
  test_gradient<T, n, n_acc>(random_ids(N, V, skewed), V, E, padding_idx, by_freq);
}

// The ids of sequences of these lengths: past an end no kernel looks at what stands there, and
// nothing is added to any row.
template <class T, int n, int n_acc>
void test_ragged_gradient(int steps, int V, int E, const std::vector<int64_t>& lengths) {
  const int B = static_cast<int>(lengths.size()), N = steps * B;
  std::vector<int64_t> ids = random_ids(N, V, false), masked(N), expected = ids;
  for (int i = 0; i < N; ++i) {
    if (i / B < lengths[i % B]) continue;
    ids[i] = -7;
    expected[i] = V;
  }
  emu::launch(grid((N + kRowThreads - 1) / kRowThreads, 1, kRowThreads), mask_ids, ids.data(),
              lengths.data(), masked.data(), N, B, V);
  if (masked != expected) report("mask_ids");
  test_gradient<T, n, n_acc>(masked, V, E, V, false);
}

}  // namespace

int main(int argc, char** argv) {
  return run_seeds(argc, argv, [] {
    test_gradient<half, 1, 1>(33, 3, 5, -1, true, false);
#if !defined(__SANITIZE_THREAD__)  // whose fibers are expensive
    test_ragged_gradient<float, 1, 1>(5, 4, 3, {5, 0, 2, 4});
    test_ragged_gradient<half, 8, 4>(60, 9, 16, {7, 60, 0, 31, 55, 1, 59});
    test_gather<float, 4>(37, 5, 20);
    test_gather<bfloat16, 1>(9, 3, 67);
    test_gradient<float, 4, 4>(700, 7, 12, -1, false, true);  // 3 chunks, ids of many pieces
    test_gradient<float, 1, 1>(1, 3, 5, 0, false, false);
    test_gradient<bfloat16, 8, 4>(300, 40, 40, 20, true, true);
    test_gradient<half, 1, 1>(33, 50, 35, -1, true, false);
    test_gradient<double, 2, 2>(65, 2, 130, 1, false, false);
    // More chunks, ids and tokens of a chunk than a warp has on their way at once.
    test_gradient<float, 1, 1>(random_ids(8300, 5, true), 5, 1, -1, false, 32, 256);
    test_gradient<float, 1, 1>(random_ids(700, 300, false), 300, 1, 7, false, 320, 256);
#endif
  });
}
