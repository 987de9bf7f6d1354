// What the forward and the backward sequence kernel share: the order in which a team works
// through panels and row tiles, and which rows are alive at a step. Part of isa_body.h: inside
// the instruction set's namespace.
//
// Both kernels multiply a few rows (h, or the gate gradients of the step after) with a slice of
// w_hh's columns packed into gemm.h's panels, and finish each element of the product where it
// was made. The sum over k goes in blocks, since summing within blocks first keeps the rounding
// error small. Every output element is the same chain of additions whatever the tile, the team
// or the neighbouring rows are.

// Every end of a block costs a tile time, so forward has fewer; gradients, which are sums over
// 4H, would round worse than torch's in blocks as long.
constexpr int64_t kBlockK = 128, kForwardBlockK = 256;
// Row tiles that pass a panel before the next panel: their rows stay in L2, and their partial
// sums on the stack.
constexpr int64_t kGroupTiles = 24;
// A member's share of the packed weights, in bytes, beyond which they don't stay in its L2.
constexpr int64_t kFarBytes = 1 << 21;
// Vectors of partial sums a row: the four gates of a vector of units, or a backward panel.
constexpr int kSumVectors = 4;

// n things in as few parts of at most `most` as can be, of sizes that differ by at most 1.
struct Parts {
  int64_t count, size, larger;  // the first `larger` parts have size + 1, the others size
  Parts(int64_t n, int64_t most)
      : count(ceil_div(n, most)), size(count == 0 ? 0 : n / count), larger(n - size * count) {}
  int64_t begin(int64_t part) const { return part * size + smaller(part, larger); }
};

// The columns of a matrix in panels, counted in whole vectors.
template <class T>
struct VectorPanels : Parts {
  explicit VectorPanels(int64_t columns) : Parts(ceil_div(columns, kLanes<T>), kPanelVectors) {}
  int width(int64_t panel) const { return static_cast<int>(begin(panel + 1) - begin(panel)); }
};

// Panels [begin, end) of w [K, columns].
template <class T>
void pack_columns(const T* w, T* packed, int64_t K, int64_t columns,
                  const VectorPanels<T>& panels, int64_t begin, int64_t end) {
  for (int64_t panel = begin; panel < end; ++panel) {
    const int64_t j = panels.begin(panel) * kLanes<T>;
    const int64_t stop = smaller(j + panels.width(panel) * kLanes<T>, columns);
    pack_panel(w, columns, K, stop, j, packed + j * K);
  }
}

// Rows [begin, end) in tiles.
struct Tiles : Parts {
  int64_t first, end;
  Tiles(int64_t begin, int64_t end) : Parts(end - begin, kBlockRows), first(begin), end(end) {}
  int64_t begin(int64_t tile) const { return first + Parts::begin(tile); }
};

// Rows [k, k + depth) of a panel: a block of the sum over k.
struct Span {
  int64_t k, depth;
};

// A sum over K terms in blocks.
struct Blocks : Parts {
  int64_t K;
  explicit Blocks(int64_t K, int64_t most = kBlockK) : Parts(K, most), K(K) {}
  Span span(int64_t block) const {
    const int64_t k = begin(block);
    return {k, begin(block + 1) - k};
  }
};

// The sum over a row of [x h] in blocks, those of x before those of h; E and H may be 0.
struct JointBlocks {
  int64_t E;
  Blocks of_x, of_h;
  JointBlocks(int64_t E, int64_t H, int64_t most) : E(E), of_x(E, most), of_h(H, most) {}
  int64_t count() const { return of_x.count + of_h.count; }
  Span span(int64_t block) const {
    if (block < of_x.count) return of_x.span(block);
    const Span h = of_h.span(block - of_x.count);
    return {E + h.k, h.depth};
  }
};

template <class T>
struct PartialSums {
  alignas(64) T sums[kGroupTiles * kBlockRows][kSumVectors * kLanes<T>];
};

// One tile of few rows through panels [begin, end). What follows a product is a long chain of
// operations, which only those of other rows hide: so there are several products before it.
template <class T, class Step>
void run_few_rows(const Step& step, int64_t row, int64_t rows, int64_t begin, int64_t end) {
  alignas(64) T sums[kBlockRows][kSumVectors * kLanes<T>];
  const int64_t blocks = step.blocks(), most = kBlockRows / rows;
  for (int64_t panel = begin; panel < end; panel += most) {
    const int64_t some = smaller(most, end - panel);
    T* c[kBlockRows];
    for (int64_t i = 0; i < some * rows; ++i) c[i] = sums[i];
    for (int64_t i = 0; i < some; ++i) {
      const void* lines[kBlockRows * Step::kLines];
      Lines soon{lines};
      for (int64_t r = 0; r < rows && rows > 1 && Step::kAsks; ++r) {
        soon.count += step.lines(panel + i, row + r, lines + soon.count);
      }
      for (int64_t block = 0; block < blocks; ++block) {
        const Span span = step.span(block);
        const T* a[kBlockRows];
        for (int64_t r = 0; r < rows; ++r) a[r] = step.row(row + r, span);
        step.multiply(panel + i, span, rows, a, c + i * rows, block > 0,
                      block == 0 ? soon : Lines{});
      }
    }
    for (int64_t i = 0; i < some; ++i) step.finish(panel + i, row, rows, c + i * rows);
  }
}

// Works through the items [begin, end) of (group of row tiles) x panels x tiles of the group:
// all blocks of k for the tiles of one panel, then what follows the product. The step has
//   blocks()                                  into how many the sum is cut, at least 1
//   span(block)                               which rows of a panel a block takes
//   row(i, span)                              address of row i's elements that they multiply
//   multiply(panel, span, rows, a, c, add, soon)
//                                             c[r] (+)= a[r] @ panel[span], r < rows
//   finish(panel, i, rows, sums)              the products of a tile's rows [i, i + rows) are
//                                             complete
//   lines(panel, i, out)                      up to kLines cache lines that finish will touch;
//                                             how many
//   kAsks                                     whether to ask for them while the tile before is
//                                             multiplied
// Where the panels are `far`, beyond L2, the tiles of a block also ask for the next one.
template <class T, class Step>
void run_items(const Step& step, const Tiles& tiles, int64_t panels, int64_t begin, int64_t end,
               bool far = false) {
  if (begin >= end) return;
  if (tiles.end - tiles.first <= kBlockRows / 2) {
    return run_few_rows<T>(step, tiles.first, tiles.end - tiles.first, begin, end);
  }
  PartialSums<T> partial;
  const int64_t blocks = step.blocks();
  int64_t group = begin / (panels * kGroupTiles) * kGroupTiles;  // its first tile
  int64_t in_group = smaller(kGroupTiles, tiles.count - group);
  int64_t panel = (begin - group * panels) / in_group;
  int64_t tile_begin = group + (begin - group * panels) % in_group;
  do {
    const int64_t n = smaller(group + in_group - tile_begin, end - begin);
    const int64_t first_row = tiles.begin(tile_begin);
    for (int64_t block = 0; block < blocks; ++block) {
      const Span span = step.span(block);
      // Of the next block's rows, a tile's share.
      const int64_t ahead =
          far && tiles.end - tiles.first >= kBlockRows ? ceil_div(span.depth, n) : 0;
      for (int64_t tile = tile_begin; tile < tile_begin + n; ++tile) {
        const int64_t row = tiles.begin(tile), rows = tiles.begin(tile + 1) - row;
        const T* a[kBlockRows];
        T* c[kBlockRows];
        for (int64_t r = 0; r < rows; ++r) {
          a[r] = step.row(row + r, span);
          c[r] = partial.sums[row + r - first_row];
        }
        // This block's share of the next tile's rows, if there is a next in the group.
        const bool same = tile + 1 < tile_begin + n;
        const int64_t next_panel = same ? panel : panel + 1;
        const int64_t next = same ? row + rows : tiles.begin(group);
        const int64_t next_rows = Step::kAsks && rows > 1 && next_panel < panels
                                      ? smaller(kBlockRows, tiles.end - next)
                                      : 0;
        const void* lines[kBlockRows * Step::kLines];
        Lines soon{lines, 0, (tile - tile_begin) * ahead, ahead};
        for (int64_t r = next_rows * block / blocks; r < next_rows * (block + 1) / blocks;
             ++r) {
          soon.count += step.lines(next_panel, next + r, lines + soon.count);
        }
        step.multiply(panel, span, rows, a, c, block > 0, soon);
        if (block + 1 < blocks) continue;
        step.finish(panel, row, rows, c);
      }
    }
    begin += n;
    if (++panel == panels) {
      panel = 0;
      group += kGroupTiles;
      in_group = smaller(kGroupTiles, tiles.count - group);
    }
    tile_begin = group;
  } while (begin < end);
}

// The rows that one member works on, and how it shares the panels. Either every member takes
// every size-th row through all panels and never waits (batch split), or all take all rows and
// share the items, with a barrier after each step. Rows are counted in `order`, longest first,
// so that those alive at a step are a prefix of any member's rows.
struct Share {
  const int64_t* order;  // [B], or null: as they come
  int64_t first, stride;
  int rank, size;  // among those who share this member's items

  Share(const int64_t* order, bool split_batch, const Team& team)
      : order(order),
        first(split_batch ? team.rank : 0),
        stride(split_batch ? team.size : 1),
        rank(split_batch ? 0 : team.rank),
        size(split_batch ? 1 : team.size) {}

  // Whether packed weights of as many elements are far from each member.
  template <class T>
  bool far(int64_t elements) const {
    return elements / size * static_cast<int64_t>(sizeof(T)) > kFarBytes;
  }

  // Sequence (index into the batch) of this member's row i.
  int64_t sequence(int64_t i) const {
    const int64_t s = first + i * stride;
    return order ? order[s] : s;
  }
  // How many of the first `alive` rows in order are this member's.
  int64_t count(int64_t alive) const {
    return alive <= first ? 0 : (alive - first - 1) / stride + 1;
  }

  // Rows [begin, end) through all panels; a product of no blocks is zero.
  template <class T, class Step>
  void run(const Step& step, int64_t begin, int64_t end, int64_t panels,
           bool far = false) const {
    if (begin >= end) return;
    if (step.blocks() == 0) {
      const T zeros[kSumVectors * kLanes<T>] = {}, *nothing = zeros;
      const int64_t items = (end - begin) * panels;
      for (int64_t i = items * rank / size; i < items * (rank + 1) / size; ++i) {
        step.finish(i % panels, begin + i / panels, 1, &nothing);
      }
      return;
    }
    const Tiles tiles(begin, end);
    const int64_t items = panels * tiles.count;
    run_items<T>(step, tiles, panels, items * rank / size, items * (rank + 1) / size, far);
  }
};
