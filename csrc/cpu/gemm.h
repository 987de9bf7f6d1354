// Products of tiles that live in the cache: C (+)= A @ B with B packed into panels.
// Part of isa_body.h: inside the instruction set's namespace.
//
// A block of kBlockRows rows times one panel keeps all its sums in registers. A panel is
// kPanelVectors vectors wide (the last one of a matrix may be narrower) and stored row after
// row, so that it is read as one stream; products are cut into pieces of kDepth along the
// summed index, so that a piece of a panel stays in L1 while all rows of A pass over it.

constexpr int kBlockRows = 6;
constexpr int kPanelVectors = kVectorRegisters == 32 ? 4 : 2;
constexpr int64_t kDepth = 132;
// For few rows, where torch sums in many lanes at once: shorter sums, less rounding.
constexpr int64_t kFewRows = 16, kFewRowsDepth = 16;
template <class T>
constexpr int64_t kPanel = kPanelVectors * kLanes<T>;
// kernels.h gives the sizes of scratch for any instruction set.
static_assert(kBlockRows == 6 && kPanel<float> <= 64, "see weight_grad_scratch and step_panel");

// Columns of a packed matrix: whole vectors. Columns past the last hold zeros.
template <class T>
FASTCHAR_INLINE int64_t padded_columns(int64_t columns) {
  return (columns + kLanes<T> - 1) / kLanes<T> * kLanes<T>;
}

// Packs columns [j0, j0 + width) of B [depth, columns] into one panel; its rows are row_step
// elements apart, which the processor does not foresee where that is a page: they are asked for
// kPackAhead rows early, into L2, since L1 has too few places for lines a page apart.
constexpr int64_t kPackAhead = 32;
template <class T>
void pack_panel(const T* b, int64_t row_step, int64_t depth, int64_t columns, int64_t j0,
                T* panel) {
  const int64_t width = padded_columns<T>(columns - j0 < kPanel<T> ? columns - j0 : kPanel<T>);
  const int64_t filled = columns - j0 < width ? columns - j0 : width;
  for (int64_t k = 0; k < depth; ++k) {
    T* row = panel + k * width;
    for (int64_t j = 0; j < width; j += kLine<T>) {
      __builtin_prefetch(b + (k + kPackAhead) * row_step + j0 + j, 0, 2);
    }
    __builtin_memcpy(row, b + k * row_step + j0, sizeof(T) * filled);
    for (int64_t j = filled; j < width; ++j) row[j] = T(0);
  }
}

// The same where B is given as its transpose, b [columns, depth]: blocks of it are transposed
// in registers, since a row of the panel takes one element of each of many rows of b.
template <class T>
void pack_panel_of_transpose(const T* b, int64_t depth, int64_t columns, int64_t j0, T* panel) {
  constexpr int L = kLanes<T>;
  const int64_t width = padded_columns<T>(columns - j0 < kPanel<T> ? columns - j0 : kPanel<T>);
  for (int64_t v = 0; v < width; v += L) {
    const T* rows = b + (j0 + v) * depth;
    const int64_t there = columns - j0 - v < L ? columns - j0 - v : L;
    for (int64_t k = 0; k < depth; k += L) {
      Vec<T> block[L];
      for (int64_t u = 0; u < L; ++u) {
        block[u] = u < there ? load_upto(rows + u * depth + k, depth - k) : Vec<T>{};
      }
      transpose<T>(block);
      const int64_t deep = depth - k < L ? depth - k : L;
      for (int64_t i = 0; i < deep; ++i) store(panel + (k + i) * width + v, block[i]);
    }
  }
}

// Cache lines that will be needed soon. A product asks for one with each step of its sum: all
// at once they would hold up the loads of whoever asks. It also asks, into L2, for the rows
// that follow its own in the packed matrix, of which [begin, begin + rows) are this product's
// share.
struct Lines {
  const void* const* line = nullptr;
  int64_t count = 0;
  int64_t begin = 0, rows = 0;
};

// c[r][j] = (add ? c[r][j] : 0) + sum over k of a[r][k * a_step] * panel[k][j], for `columns`
// columns, of which the last vector may be partial.
template <class T, int R, int NV>
void multiply_block(int64_t depth, const T* const* a, int64_t a_step, const T* panel,
                    T* const* c, int64_t columns, bool add, const Lines& soon) {
  constexpr int L = kLanes<T>;
  const T* rows[R];
  Vec<T> sum[R][NV];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    rows[r] = a[r];
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) {
      sum[r][v] = Vec<T>{};
      if (add) __builtin_prefetch(c[r] + v * L, 1);
    }
  }
  for (int64_t k = 0; k < depth; ++k) {
    if (R > 1 && k < soon.count) __builtin_prefetch(soon.line[k]);
    Vec<T> b[NV];
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) b[v] = load(panel + v * L);
    if (static_cast<uint64_t>(k - soon.begin) < static_cast<uint64_t>(soon.rows)) {
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) __builtin_prefetch(panel + (depth * NV + v) * L, 0, 2);
    }
    panel += NV * L;
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const Vec<T> x = broadcast(rows[r][k * a_step]);
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) sum[r][v] = fma(x, b[v], sum[r][v]);
    }
  }
  const int64_t last = columns - (NV - 1) * L;
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) {
      const int64_t n = v < NV - 1 ? L : last;
      T* out = c[r] + v * L;
      store_upto(out, add ? sum[r][v] + load_upto(out, n) : sum[r][v], n);
    }
  }
}

template <class T, int R>
FASTCHAR_INLINE void multiply_rows(int64_t depth, const T* const* a, int64_t a_step,
                                   const T* panel, T* const* c, int64_t columns, bool add,
                                   const Lines& soon) {
  const int64_t vectors = padded_columns<T>(columns) / kLanes<T>;
  if constexpr (kPanelVectors == 4) {
    if (vectors == 4)
      return multiply_block<T, R, 4>(depth, a, a_step, panel, c, columns, add, soon);
    if (vectors == 3)
      return multiply_block<T, R, 3>(depth, a, a_step, panel, c, columns, add, soon);
  }
  if (vectors == 2)
    return multiply_block<T, R, 2>(depth, a, a_step, panel, c, columns, add, soon);
  multiply_block<T, R, 1>(depth, a, a_step, panel, c, columns, add, soon);
}

// The same for a run-time number of rows, 1 to kBlockRows.
template <class T>
void multiply_tile(int64_t rows, int64_t depth, const T* const* a, int64_t a_step,
                   const T* panel, T* const* c, int64_t columns, bool add,
                   const Lines& soon = {}) {
  switch (rows) {
    case 6:
      return multiply_rows<T, 6>(depth, a, a_step, panel, c, columns, add, soon);
    case 5:
      return multiply_rows<T, 5>(depth, a, a_step, panel, c, columns, add, soon);
    case 4:
      return multiply_rows<T, 4>(depth, a, a_step, panel, c, columns, add, soon);
    case 3:
      return multiply_rows<T, 3>(depth, a, a_step, panel, c, columns, add, soon);
    case 2:
      return multiply_rows<T, 2>(depth, a, a_step, panel, c, columns, add, soon);
    default:
      return multiply_rows<T, 1>(depth, a, a_step, panel, c, columns, add, soon);
  }
}

// One panel: c_row(i)[0..columns) (+)= a_row(i) @ panel for i < rows, with a_row and c_row
// giving the address of a row, and soon(i) the lines to ask for during the product of rows i
// and after. `columns` <= kPanel.
template <class T, class RowOfA, class RowOfC, class Soon>
void multiply_panel(int64_t rows, int64_t depth, const RowOfA& a_row, int64_t a_step,
                    const T* panel, const RowOfC& c_row, int64_t columns, bool add,
                    const Soon& soon) {
  for (int64_t i = 0; i < rows; i += kBlockRows) {
    const int64_t n = rows - i < kBlockRows ? rows - i : kBlockRows;
    const T* a[kBlockRows];
    T* c[kBlockRows];
    for (int64_t r = 0; r < n; ++r) {
      a[r] = a_row(i + r);
      c[r] = c_row(i + r);
    }
    multiply_tile(n, depth, a, a_step, panel, c, columns, add, soon(i));
  }
}

// The cache lines of the block of C, [rows, columns], after that at row i and column j: of the
// next rows, or of the next panel's first ones. Returns how many.
template <class T, class RowOfC>
int64_t lines_after(int64_t i, int64_t j, int64_t rows, int64_t columns, const RowOfC& c_row,
                    const void** lines) {
  const bool below = i + kBlockRows < rows;
  const int64_t first = below ? i + kBlockRows : 0, begin = below ? j : j + kPanel<T>;
  const int64_t last = smaller(first + kBlockRows, rows);
  const int64_t end = smaller(begin + kPanel<T>, columns);
  int64_t n = 0;
  for (int64_t r = first; r < last; ++r) {
    for (int64_t v = begin; v < end; v += kLine<T>) lines[n++] = c_row(r) + v;
  }
  return n;
}

// C = A @ B for a packed B [depth, columns] (its panels one after another) and A with unit
// steps. Where C is `far`, in memory, its lines are asked for a block of rows ahead.
template <class T, class RowOfA, class RowOfC>
void multiply(int64_t rows, int64_t depth, int64_t columns, const RowOfA& a_row,
              const T* packed, const RowOfC& c_row, bool far) {
  const void* lines[kBlockRows * kPanelVectors];
  const int64_t most = rows < kFewRows ? kFewRowsDepth : kDepth;
  int64_t k = 0;
  do {
    const int64_t piece = depth - k < most ? depth - k : most;
    for (int64_t j = 0; j < columns; j += kPanel<T>) {
      const int64_t width = columns - j < kPanel<T> ? columns - j : kPanel<T>;
      const auto soon = [&](int64_t i) {
        if (!far || k > 0) return Lines{};
        return Lines{lines, lines_after<T>(i, j, rows, columns, c_row, lines)};
      };
      multiply_panel(
          rows, piece, [&](int64_t i) { return a_row(i) + k; }, 1,
          packed + j * depth + k * padded_columns<T>(width),
          [&](int64_t i) { return c_row(i) + j; }, width, k > 0, soon);
    }
    k += most;
  } while (k < depth);
}

// out[0, count) (+)= sums[0, count), where sums go on to the end of their last vector.
template <class T>
FASTCHAR_INLINE void add_to(T* out, const T* sums, int64_t count, bool add) {
  for (int64_t v = 0; v < count; v += kLanes<T>) {
    const int64_t n = count - v;
    const Vec<T> sum = load(sums + v);
    store_upto(out + v, add ? sum + load_upto(out + v, n) : sum, n);
  }
}

// The sum over k < count of row_of(k)[0, n), each `chain` rows on their own first: longer
// chains of additions round worse.
template <class T, class RowOf>
FASTCHAR_INLINE Vec<T> sum_rows(const RowOf& row_of, int64_t count, int64_t n, int64_t chain) {
  Vec<T> sum{};
  for (int64_t k = 0; k < count;) {
    const int64_t stop = count - k < chain ? count : k + chain;
    Vec<T> part{};
    for (; k < stop; ++k) part = part + load_upto(row_of(k), n);
    sum = sum + part;
  }
  return sum;
}
