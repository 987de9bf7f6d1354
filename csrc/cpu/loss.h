// Linear + cross entropy, and its gradients in the same pass over the tokens.
// Part of isa_body.h: inside the instruction set's namespace.
//
// Tokens come in fixed chunks and chunks in tiles; ignored tokens enter no tile. The logits
// [tile, C] of one tile are made, turned into probabilities, into the gradient of the logits,
// and used for both products before the next tile: N x C never exists. Chunks depend on the
// shapes alone and each sums the weight's gradient in a table of its own, added up in order at
// the end: same bits for any team.

constexpr int64_t kTileTokens = kDepth;  // a tile is one piece of the product that sums over it
static_assert(kTileTokens % kBlockRows == 0, "tile_tokens rounds up to whole blocks");

// Chunks of the tokens: enough for a large team, yet their tables cost as little as can be.
// From 8 chunks on each has 256 tokens, and beyond 4 the tables are no larger than `input`
// together.
inline int64_t loss_chunks(int64_t N, int64_t C) {
  const int64_t few = N / 64 < 8 ? N / 64 : 8;
  int64_t chunks = N / 256 > few ? N / 256 : few;
  const int64_t most = N / C > 4 ? N / C : 4;
  if (chunks > most) chunks = most;
  if (chunks > 32) chunks = 32;
  return chunks < 1 ? 1 : chunks;
}

// Tokens of a tile in a chunk of n: tiles of one size rather than full ones and a small rest.
inline int64_t tile_tokens(int64_t n) {
  const int64_t tiles = n > kTileTokens ? (n + kTileTokens - 1) / kTileTokens : 1;
  const int64_t even = (n + tiles - 1) / tiles;
  return (even + kBlockRows - 1) / kBlockRows * kBlockRows;
}

// Where each part of the workspace begins, in elements; each part is whole cache lines.
struct LossWorkspace {
  int64_t chunks;
  int64_t logits_step;     // elements from one row of logits to the next
  int64_t weight_columns;  // weight.T packed, for input @ weight.T
  int64_t weight_rows;     // weight packed, for grad_logits @ weight
  int64_t bias;            // [C], zeros without one; then -Inf up to whole vectors
  int64_t smooth;          // [C] label smoothing's weight of each class; zeros; their sum
  int64_t grad_weight;     // [chunks - 1, C, H]: chunk 0 sums in the output itself
  int64_t grad_bias;       // [chunks, logits_step]
  int64_t members;         // of each: logits [kTileTokens, logits_step], panel of input
  int64_t member_size;
  int64_t size;
};

template <class T>
LossWorkspace loss_workspace(const LinearCrossEntropyParams<T>& p, int team_size) {
  const auto lines = [](int64_t n) { return (n + kLine<T> - 1) / kLine<T> * kLine<T>; };
  LossWorkspace w;
  int64_t end = 0;
  const auto take = [&](int64_t n) {
    const int64_t begin = end;
    end += lines(n);
    return begin;
  };
  w.chunks = loss_chunks(p.N, p.C);
  // One line more: rows a power of two apart would share their cache sets.
  w.logits_step = lines(p.C) + kLine<T>;
  w.weight_columns = take(lines(p.C) * p.H);
  w.weight_rows = take(p.grad_input ? lines(p.H) * p.C : 0);
  w.bias = take(p.C);
  w.smooth = take(padded_columns<T>(p.C) + 1);
  w.grad_weight = take(p.grad_bias ? (w.chunks - 1) * p.C * p.H : 0);
  w.grad_bias = take(p.grad_bias ? w.chunks * w.logits_step : 0);
  w.members = end;
  w.member_size = kTileTokens * (w.logits_step + kPanel<T>);
  w.size = end + team_size * w.member_size;
  return w;
}

template <class T>
int64_t linear_cross_entropy_workspace(const LinearCrossEntropyParams<T>& p, int team_size) {
  return loss_workspace(p, team_size).size;
}

FASTCHAR_INLINE float log_of(float x) { return __builtin_logf(x); }
FASTCHAR_INLINE double log_of(double x) { return __builtin_log(x); }

// One token: logits z without their bias become the loss and, for gradients, d loss / d z.
template <class T>
void loss_row(const LinearCrossEntropyParams<T>& p, const LossWorkspace& w, int64_t n, T* z) {
  constexpr int L = kLanes<T>;
  const int64_t padded = padded_columns<T>(p.C);
  const T* bias = p.workspace + w.bias;
  const T* smooth = p.workspace + w.smooth;

  Vec<T> maxima = broadcast(T(-__builtin_inf()));
  for (int64_t c = 0; c < padded; c += L) {
    const Vec<T> x = load(z + c) + load(bias + c);
    store(z + c, x);
    maxima = at_least(maxima, x);
  }
  const T top = largest_of_lanes<T>(maxima);

  const int64_t target = p.target[n];
  const T target_z = z[target] - top;
  const T target_weight =
      T(1 - p.label_smoothing) * (p.class_weight ? p.class_weight[target] : T(1));
  const T smooth_sum = smooth[padded];
  T smooth_z = 0;  // sum of smooth * (z - top)
  if (p.label_smoothing != 0) {
    Vec<T> products{};
    for (int64_t c = 0; c < p.C; c += L) {
      const Vec<T> x = load_upto(z + c, p.C - c) - broadcast(top);
      products = fma(load_upto(smooth + c, p.C - c), x, products);
    }
    smooth_z = sum_of_lanes<T>(products);
  }

  Vec<T> sums{};
  for (int64_t c = 0; c < padded; c += L) {
    const Vec<T> e = exp(load(z + c) - broadcast(top));
    store(z + c, e);
    sums += e;
  }
  const T sum = sum_of_lanes<T>(sums);
  const T log_sum = log_of(sum);
  if (p.loss) {
    p.loss[n] = target_weight * (log_sum - target_z) + (smooth_sum * log_sum - smooth_z);
  }
  if (!p.grad_bias) return;

  const double g = p.grad_loss ? p.grad_loss[n] : p.grad_scale;
  const Vec<T> factor = broadcast(T(g * (target_weight + smooth_sum) / sum));
  const Vec<T> minus_g = broadcast(T(-g));
  for (int64_t c = 0; c < padded; c += L) {
    store(z + c, fma(minus_g, load(smooth + c), load(z + c) * factor));
  }
  z[target] -= T(g * target_weight);
}

// One tile of M <= kTileTokens tokens of chunk `chunk`. Overwrites the chunk's tables if it is
// the chunk's first, else adds to them.
template <class T>
void loss_tile(const LinearCrossEntropyParams<T>& p, const LossWorkspace& w, int rank,
               int64_t chunk, const int64_t* tokens, int64_t M, bool first) {
  constexpr int L = kLanes<T>;
  const int64_t H = p.H, C = p.C;
  T* logits = p.workspace + w.members + rank * w.member_size;
  T* panel = logits + kTileTokens * w.logits_step;
  const auto input_row = [&](int64_t i) { return p.input + tokens[i] * H; };
  const auto logits_row = [&](int64_t i) { return logits + i * w.logits_step; };

  multiply(M, H, padded_columns<T>(C), input_row, p.workspace + w.weight_columns, logits_row,
           false);
  for (int64_t i = 0; i < M; ++i) loss_row(p, w, tokens[i], logits_row(i));

  if (p.grad_input) {
    multiply(
        M, C, H, logits_row, p.workspace + w.weight_rows,
        [&](int64_t i) { return p.grad_input + tokens[i] * H; }, true);
  }
  if (!p.grad_bias) return;

  T* grad_weight =
      chunk == 0 ? p.grad_weight : p.workspace + w.grad_weight + (chunk - 1) * C * H;
  // Meanwhile the next tile's input comes, each product asking for its share of the lines.
  const T* next = M > 0 ? input_row(M - 1) + H : p.input;
  const int64_t blocks = ceil_div(C, kBlockRows), products = blocks * ceil_div(H, kPanel<T>);
  const int64_t all = ceil_div(M * H, kLine<T>);
  const void* lines[kTileTokens];
  for (int64_t j = 0; j < H; j += kPanel<T>) {
    const auto soon = [&](int64_t c) {
      const int64_t i = j / kPanel<T> * blocks + c / kBlockRows;
      const int64_t begin = all * i / products;
      const int64_t count = smaller(all * (i + 1) / products - begin, kTileTokens);
      for (int64_t k = 0; k < count; ++k) lines[k] = next + (begin + k) * kLine<T>;
      return Lines{lines, count};
    };
    const int64_t columns = H - j < kPanel<T> ? H - j : kPanel<T>;
    const int64_t width = padded_columns<T>(columns);
    for (int64_t i = 0; i < M; ++i) {
      const T* x = input_row(i) + j;
      for (int64_t v = 0; v < width; v += L) {
        store(panel + i * width + v, load_upto(x + v, columns - v));
      }
    }
    multiply_panel(
        C, M, [&](int64_t c) { return logits + c; }, w.logits_step, panel,
        [&](int64_t c) { return grad_weight + c * H + j; }, columns, !first, soon);
  }

  T* grad_bias = p.workspace + w.grad_bias + chunk * w.logits_step;
  for (int64_t c = 0; c < C; c += L) {
    Vec<T> sum{};
    for (int64_t i = 0; i < M; i += 8) {  // in two levels: less rounding
      Vec<T> part{};
      for (int64_t r = i; r < M && r < i + 8; ++r) part += load(logits_row(r) + c);
      sum += part;
    }
    store(grad_bias + c, first ? sum : load(grad_bias + c) + sum);
  }
}

// Sum of `count` tables `step` elements apart, after `head` if there is one.
template <class T>
void add_tables(const T* head, const T* tables, int64_t count, int64_t step, int64_t begin,
                int64_t end, T* out) {
  constexpr int L = kLanes<T>;
  for (int64_t i = begin; i < end; i += L) {
    const int64_t n = end - i;
    Vec<T> sum = head ? load_upto(head + i, n) : Vec<T>{};
    for (int64_t k = 0; k < count; ++k) sum += load_upto(tables + k * step + i, n);
    store_upto(out + i, sum, n);
  }
}

template <class T>
void linear_cross_entropy(const LinearCrossEntropyParams<T>& p, const Team& team) {
  const FlushDenormals flush;
  const LossWorkspace w = loss_workspace(p, team.size);
  const int64_t H = p.H, C = p.C;
  const T infinity = T(__builtin_inf());

  const int64_t C_panels = (C + kPanel<T> - 1) / kPanel<T>;
  for (int64_t j = team.begin(C_panels) * kPanel<T>; j < team.end(C_panels) * kPanel<T>;
       j += kPanel<T>) {
    pack_panel_of_transpose(p.weight, H, C, j, p.workspace + w.weight_columns + j * H);
  }
  if (p.grad_input) {
    const int64_t H_panels = (H + kPanel<T> - 1) / kPanel<T>;
    for (int64_t j = team.begin(H_panels) * kPanel<T>; j < team.end(H_panels) * kPanel<T>;
         j += kPanel<T>) {
      pack_panel(p.weight, H, C, H, j, p.workspace + w.weight_rows + j * C);
    }
  }
  if (team.rank == 0) {
    const double share = p.label_smoothing / static_cast<double>(C);
    long double total = 0;  // a double's C roundings are seen in float64 gradients
    for (int64_t c = 0; c < padded_columns<T>(C); ++c) {
      p.workspace[w.bias + c] = c >= C ? -infinity : p.bias ? p.bias[c] : T(0);
      const double part = c >= C ? 0 : p.class_weight ? share * p.class_weight[c] : share;
      p.workspace[w.smooth + c] = T(part);
      total += part;
    }
    p.workspace[w.smooth + padded_columns<T>(C)] = T(total);
  }
  team.barrier->wait();

  for (int64_t chunk = team.begin(w.chunks); chunk < team.end(w.chunks); ++chunk) {
    const int64_t begin = p.N * chunk / w.chunks, end = p.N * (chunk + 1) / w.chunks;
    const int64_t tile = tile_tokens(end - begin);
    int64_t tokens[kTileTokens], M = 0;
    bool first = true;
    for (int64_t n = begin; n < end; ++n) {
      if (p.target[n] != p.ignore_index) {
        tokens[M++] = n;
      } else {
        if (p.loss) p.loss[n] = T(0);
        if (p.grad_input) std::memset(p.grad_input + n * H, 0, sizeof(T) * H);
      }
      if (M == tile) {
        loss_tile(p, w, team.rank, chunk, tokens, M, first);
        first = false;
        M = 0;
      }
    }
    if (M > 0 || first) loss_tile(p, w, team.rank, chunk, tokens, M, first);
  }
  if (!p.grad_bias) return;
  team.barrier->wait();

  const int64_t lines = (C * H + kLine<T> - 1) / kLine<T>;
  const int64_t begin = team.begin(lines) * kLine<T>;
  const int64_t end = team.end(lines) * kLine<T> < C * H ? team.end(lines) * kLine<T> : C * H;
  add_tables(p.grad_weight, p.workspace + w.grad_weight, w.chunks - 1, C * H, begin, end,
             p.grad_weight);
  if (team.rank == 0) {
    add_tables<T>(nullptr, p.workspace + w.grad_bias, w.chunks, w.logits_step, 0, C,
                  p.grad_bias);
  }
}
