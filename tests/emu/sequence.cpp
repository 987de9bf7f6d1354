// The sequence kernels against plain loops: each way of running them, over small odd shapes,
// ragged and not, in both directions, from pre-activations and from a folded table. What stands
// in the padding is NaN and an id that no table has.
#include <algorithm>
#include <limits>

#include "before.cuh"
#include "check.h"
#include "lstm_reference.h"
#include "resident.cuh"
#include "steps.cuh"

using namespace fastchar::cuda;

namespace {

struct Case {
  int T, B, H, V;
  bool reverse;
  std::vector<int64_t> lengths;
  bool need_h0 = true;
};

// A problem with inputs rounded to T, and every array that the kernels take.
template <class T>
struct Problem {
  explicit Problem(const Case& s) : shape(s) {
    const int N = s.T * s.B, rows = s.V ? s.V : N;
    gates = random_values<T>(rows * 4 * s.H, 2);
    w_hh = random_values<T>(4 * s.H * s.H, 1 / std::sqrt(s.H));
    h0 = random_values<T>(s.B * s.H);
    c0 = random_values<T>(s.B * s.H);
    grad_y = random_values<T>(N * s.H);
    grad_h_n = random_values<T>(s.B * s.H);
    grad_c_n = random_values<T>(s.B * s.H);
    if (s.V) {
      for (int i = 0; i < N; ++i) ids.push_back(random_below(s.V));
    }
    reference = {s.T,           s.B,         s.H,         s.V, s.reverse, widened(gates),
                 widened(w_hh), widened(h0), widened(c0), ids, s.lengths};
    poison_padding();
    y = act = cell = grad_gates = std::vector<T>();
    y.resize(N * s.H);
    cell.resize(N * s.H);
    act.resize(N * 4 * s.H);
    grad_gates.resize(N * 4 * s.H);
    h_n.resize(s.B * s.H);
    c_n = grad_h0 = grad_c0 = h_n;
  }

  void poison_padding() {
    const T nan = narrow<T>(std::numeric_limits<float>::quiet_NaN());
    for (int row = 0; row < shape.T * shape.B; ++row) {
      if (row / shape.B < reference.length(row % shape.B)) continue;
      for (int u = 0; u < shape.H; ++u) grad_y[row * shape.H + u] = nan;
      if (shape.V) {
        ids[row] = -7;
      } else {
        for (int g = 0; g < 4 * shape.H; ++g) gates[row * 4 * shape.H + g] = nan;
      }
    }
  }

  LstmSequenceParams<T> forward_params() {
    return {gates.data(), shape.V ? ids.data() : nullptr,
            w_hh.data(),  h0.data(),
            c0.data(),    lengths(),
            y.data(),     h_n.data(),
            c_n.data(),   act.data(),
            cell.data(),  shape.T,
            shape.B,      shape.H,
            shape.V,      shape.reverse};
  }
  LstmSequenceBackwardParams<T> backward_params() {
    return {grad_y.data(),     grad_h_n.data(),
            grad_c_n.data(),   act.data(),
            cell.data(),       w_hh.data(),
            c0.data(),         lengths(),
            grad_gates.data(), shape.need_h0 ? grad_h0.data() : nullptr,
            grad_c0.data(),    shape.T,
            shape.B,           shape.H,
            shape.reverse};
  }
  const int64_t* lengths() const {
    return shape.lengths.empty() ? nullptr : shape.lengths.data();
  }

  void check_forward(const std::string& way) {
    const Forward f = forward(reference);
    expect_close(way + " y", y, f.y, roundings);
    expect_close(way + " h_n", h_n, f.h_n, roundings);
    expect_close(way + " c_n", c_n, f.c_n, roundings);
    expect_close(way + " act", act, f.act, roundings);
    expect_close(way + " cell", cell, f.cell, roundings);
  }
  // From what the kernels' own forward saved.
  void check_backward(const std::string& way) {
    std::vector<double> wide_grad_y = widened(grad_y);
    const Backward r = backward(reference, widened(act), widened(cell), wide_grad_y,
                                widened(grad_h_n), widened(grad_c_n));
    expect_close(way + " grad_gates", grad_gates, r.grad_gates, roundings);
    if (shape.need_h0) expect_close(way + " grad_h0", grad_h0, r.grad_h0, roundings);
    expect_close(way + " grad_c0", grad_c0, r.grad_c0, roundings);
  }

  double roundings = 8;  // over a handful of steps
  Case shape;
  Sequence reference;
  std::vector<int64_t> ids;
  std::vector<T> gates, w_hh, h0, c0, y, h_n, c_n, act, cell;
  std::vector<T> grad_y, grad_h_n, grad_c_n, grad_gates, grad_h0, grad_c0;
};

// Grid exchanges want buffers, the others nothing.
template <class Exchange>
struct Buffers {
  Buffers(int, int) {}
  typename Exchange::Params params() { return {}; }
  static constexpr bool kCluster = true, kAllResident = false;
};
template <class Shape>
struct Buffers<GridExchange<Shape>> {
  using Exchange = GridExchange<Shape>;
  Buffers(int team, int teams)
      : tiles(2 * teams * Exchange::kGlobalTile), flags(team * teams) {}
  typename Exchange::Params params() { return {tiles.data(), flags.data()}; }
  static constexpr bool kCluster = false, kAllResident = true;
  std::vector<typename Shape::T> tiles;
  std::vector<int> flags;
};

template <class Shape, class Exchange, class Params>
void run_resident(void (*kernel)(Params, const Fragment*, typename Exchange::Params, int, int,
                                 int),
                  const Params& p, int at_once, int batch) {
  if (batch > Shape::kBatch) batch = Shape::kBatch;
  const int team = (p.H + Shape::kUnits - 1) / Shape::kUnits;
  const int teams = (p.B + batch - 1) / batch;
  constexpr int kFragments = Product<Shape>::kFragments;
  std::vector<Fragment> packed(team * kFragments * kThreads);
  emu::launch({dim3(team, kFragments), kThreads, 0, 1, 4}, pack_weights<Shape>, p.w_hh, p.H,
              packed.data());
  for (int first = 0; first < teams; first += at_once) {
    const int count = std::min(at_once, teams - first);
    Buffers<Exchange> buffers(team, count);
    emu::Launch config{dim3(team, count), kThreads};
    config.shared_bytes = resident_shared_bytes<Shape, Exchange>();
    config.cluster = Buffers<Exchange>::kCluster ? team : 1;
    config.resident = Buffers<Exchange>::kAllResident ? 0 : team;
    emu::launch(config, kernel, p, packed.data(), buffers.params(), first * batch,
                std::min((first + count) * batch, p.B), batch);
  }
}

// at_once: teams of one launch; batch: sequences of a team.
template <class T, int kHidden, template <class> class Exchange>
void test_resident(const char* way, const Case& shape, int at_once = 100, int batch = 16) {
  using Fwd = ForwardShape<T, kHidden, kHidden <= 128 ? 8 : 16>;
  using Bwd = BackwardShape<T, kHidden, kHidden <= 128 ? 8 : 16>;
  Problem<T> problem(shape);
  if (sizeof(T) == 4) problem.roundings *= kRounding<half> / kRounding<float>;  // TF32's
  run_resident<Fwd, Exchange<Fwd>>(resident_forward<Fwd, Exchange<Fwd>>,
                                   problem.forward_params(), at_once, batch);
  problem.check_forward(way);
  run_resident<Bwd, Exchange<Bwd>>(resident_backward<Bwd, Exchange<Bwd>>,
                                   problem.backward_params(), at_once, batch);
  problem.check_backward(way);
}

// out [B, columns] = in [B, depth] times w, as torch's GEMM does: rounded to T at the end.
template <class T, class Weight>
std::vector<T> product(const T* in, int B, int depth, int columns, const Weight& w) {
  std::vector<T> out;
  for (int i = 0; i < B * columns; ++i) {
    Acc<T> sum = 0;
    for (int k = 0; k < depth; ++k)
      sum += widen(in[i / columns * depth + k]) * w(k, i % columns);
    out.push_back(narrow<T>(sum));
  }
  return out;
}

template <class T>
void test_steps(const Case& shape) {
  Problem<T> problem(shape);
  const int B = shape.B, H = shape.H, last = shape.T - 1;
  const emu::Launch config{
      static_cast<unsigned>(B * H + kPointwiseThreads - 1) / kPointwiseThreads,
      kPointwiseThreads};
  const auto p = problem.forward_params();
  std::vector<Acc<T>> c(B * H), dh(B * H), dc(B * H);
  for (int s = 0; s < shape.T; ++s) {
    const auto recurrent = product(s ? p.h_n : p.h0, B, H, 4 * H,
                                   [&](int k, int g) { return widen(p.w_hh[g * H + k]); });
    emu::launch(config, forward_step<T>, p, recurrent.data(), c.data(),
                shape.reverse ? last - s : s, s == 0);
  }
  problem.check_forward("steps");

  const auto q = problem.backward_params();
  std::vector<T> recurrent;
  int last_t = 0;
  for (int s = 0; s < shape.T; ++s) {
    const int t = shape.reverse ? s : last - s;
    emu::launch(config, backward_step<T>, q, s ? recurrent.data() : nullptr, dh.data(),
                dc.data(), t, last_t);
    recurrent = product(q.grad_gates + t * B * 4 * H, B, 4 * H, H,
                        [&](int k, int u) { return widen(q.w_hh[k * H + u]); });
    last_t = t;
  }
  emu::launch(config, backward_end<T>, q, recurrent.data(), dh.data(), dc.data(), last_t);
  problem.check_backward("steps");
}

// y past an end, and h0 of an empty sequence, are NaN.
template <class T, int n>
void test_states_before(const Case& shape) {
  const int B = shape.B, H = shape.H, N = shape.T * B;
  const T nan = narrow<T>(std::numeric_limits<float>::quiet_NaN());
  std::vector<T> y = random_values<T>(N * H), h0 = random_values<T>(B * H), got(N * H);
  Sequence order{};
  order.T = shape.T;
  order.reverse = shape.reverse;
  order.lengths = shape.lengths;
  std::vector<double> expected(N * H);
  for (int b = 0; b < B; ++b) {
    const int length = order.length(b);
    for (int s = 0; s < length; ++s) {
      for (int u = 0; u < H; ++u) {
        expected[(order.step(b, s) * B + b) * H + u] =
            widen(s ? y[(order.step(b, s - 1) * B + b) * H + u] : h0[b * H + u]);
      }
    }
    for (int u = 0; u < H; ++u) {
      for (int t = length; t < shape.T; ++t) y[(t * B + b) * H + u] = nan;
      if (length == 0) h0[b * H + u] = nan;
    }
  }
  const StatesBeforeParams<T> p{
      y.data(),   h0.data(),    shape.lengths.empty() ? nullptr : shape.lengths.data(),
      got.data(), shape.T,      B,
      H,          shape.reverse};
  const int rows = kRowThreads / lanes_per_row<n>(H);
  const dim3 blocks((N + rows - 1) / rows, static_cast<unsigned>(column_tiles<n>(H)));
  emu::launch({blocks, kRowThreads}, states_before<T, n>, p);
  expect_close("states_before", got, expected, 0);
}

}  // namespace

int main(int argc, char** argv) {
  return run_seeds(argc, argv, [] {
    test_resident<half, 128, BlockExchange>("block", {2, 3, 5, 4, true, {2, 1, 0}});
    test_resident<half, 1024, GridExchange>("grid", {2, 2, 17, 3, false, {1, 2}});
#if !defined(__SANITIZE_THREAD__)  // whose fibers are expensive
    const Case ragged{4, 5, 11, 0, false, {4, 0, 1, 3, 2}};
    const Case ragged_back{4, 5, 13, 6, true, {2, 4, 0, 1, 4}};
    test_states_before<float, 1>(ragged);
    test_states_before<double, 1>(ragged_back);
    test_states_before<half, 8>({7, 3, 24, 0, true, {3, 7, 0}});
    test_states_before<bfloat16, 8>({3, 5, 304, 0, false, {}});
    test_states_before<float, 4>({3, 2, 140, 0, true, {}});
    test_steps<float>(ragged);
    test_steps<double>(ragged_back);
    test_steps<bfloat16>({3, 2, 7, 0, true, {}, false});
    test_resident<bfloat16, 128, BlockExchange>("block", ragged);
    test_resident<half, 128, BlockExchange>("block", ragged_back);
    test_resident<half, 128, BlockExchange>("block", {2, 17, 128, 0, false, {}}, 2);
    test_resident<bfloat16, 256, ClusterExchange>("cluster", {3, 3, 139, 5, false, {3, 1, 2}});
    test_resident<bfloat16, 512, ClusterExchange>("cluster", {2, 2, 36, 0, false, {}, false});
    test_resident<half, 256, ClusterExchange>("cluster", {2, 11, 70, 0, true, {}}, 100, 8);
    test_resident<bfloat16, 256, GridExchange>("grid", {3, 21, 150, 4, false, {}}, 2, 8);
    test_resident<float, 64, BlockExchange>("block", ragged_back);
    test_resident<float, 64, BlockExchange>("block", {2, 9, 64, 3, false, {}});
    test_resident<float, 128, ClusterExchange>("cluster", {3, 3, 70, 5, false, {3, 1, 2}});
    test_resident<float, 512, GridExchange>("grid", {2, 17, 37, 0, true, {}}, 1);
    test_resident<half, 256, GridExchange>("grid", {3, 18, 150, 0, true, {}}, 1);
    test_resident<bfloat16, 512, GridExchange>("grid", {2, 3, 37, 4, true, {1, 2, 0}});
#endif
  });
}
