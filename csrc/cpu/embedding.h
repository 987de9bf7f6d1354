// Embedding gather and its scatter-add gradient.
// Part of isa_body.h: inside the instruction set's namespace.

// A result of this many bytes or more is larger than any cache and only written.
constexpr int64_t kStreamOutputBytes = 1 << 25;
constexpr int64_t kIdBlock = 256;

// out[0..n) = a.
template <class T>
FASTCHAR_INLINE void copy_row(const T* a, T* out, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes<T>)
    store_upto(out + i, load_upto(a + i, n - i), n - i);
}

template <class T>
void embedding(const EmbeddingParams<T>& p, const Team& team) {
  const bool past_caches = kCanStream && p.E % kLine<T> == 0 &&
                           reinterpret_cast<uintptr_t>(p.out) % 64 == 0 &&
                           p.N * p.E * static_cast<int64_t>(sizeof(T)) >= kStreamOutputBytes;
  // Ids are checked a block ahead of their rows: they come out of memory once.
  for (int64_t begin = team.begin(p.N), end; begin < team.end(p.N); begin = end) {
    end = smaller(begin + kIdBlock, team.end(p.N));
    if (!all_ids_inside(p.ids + begin, end - begin, p.V)) {
      return p.outside->store(true, std::memory_order_relaxed);
    }
    for (int64_t n = begin; n < end; ++n) {
      const T* row = p.weight + p.ids[n] * p.E;
      T* out = p.out + n * p.E;
      if (!past_caches) {
        copy_row(row, out, p.E);
      } else {
        for (int64_t i = 0; i < p.E; i += kLine<T>) stream(out + i, load(row + i));
      }
    }
  }
  finish_streaming();
}

// out[0..E) (+)= the R rows, in their order, while the rows `soon` are asked for.
template <class T, int R>
void sum_rows(const T* const* rows, const T* const* soon, T* out, int64_t E, bool add) {
  for (int64_t e = 0; e < E; e += kLanes<T>) {
    for (int r = 0; r < R && e % kLine<T> == 0; ++r) __builtin_prefetch(soon[r] + e, 0, 2);
    Vec<T> sum = load_upto(rows[0] + e, E - e);
    if (add) sum = load_upto(out + e, E - e) + sum;
    for (int r = 1; r < R; ++r) sum = sum + load_upto(rows[r] + e, E - e);
    store_upto(out + e, sum, E - e);
  }
}

// The same for 1 to 4 rows: as many streams as hide the time that memory takes.
constexpr int64_t kSumRows = 4;
template <class T>
void sum_some_rows(int64_t count, const T* const* rows, const T* const* soon, T* out, int64_t E,
                   bool add) {
  switch (count) {
    case 1:
      return sum_rows<T, 1>(rows, soon, out, E, add);
    case 2:
      return sum_rows<T, 2>(rows, soon, out, E, add);
    case 3:
      return sum_rows<T, 3>(rows, soon, out, E, add);
    default:
      return sum_rows<T, 4>(rows, soon, out, E, add);
  }
}

// Tokens in order of their ids, and of their own within an id, by counting. Up to kSorters
// members take a part of the tokens each; returns where each id's tokens end.
template <class T>
const int64_t* sort_tokens(const EmbeddingBackwardParams<T>& p, const Team& team) {
  const int64_t sorters = smaller(team.size, kSorters);
  int64_t *tokens = p.order, *end = tokens + p.N, *places = end + p.V;  // [sorters, V]
  int64_t* own = places + team.rank * p.V;
  const int64_t first = p.N * team.rank / sorters, last = p.N * (team.rank + 1) / sorters;
  if (team.rank < sorters) {
    std::memset(own, 0, sizeof(int64_t) * p.V);
    for (int64_t n = first; n < last; ++n) own[p.ids[n]] += p.ids[n] != p.padding_idx;
  }
  team.barrier->wait();
  if (team.rank == 0) {
    int64_t place = 0;
    for (int64_t v = 0; v < p.V; end[v++] = place) {
      for (int64_t s = 0; s < sorters; ++s) {
        const int64_t count = places[s * p.V + v];
        places[s * p.V + v] = place;
        place += count;
      }
    }
  }
  team.barrier->wait();
  for (int64_t n = first; team.rank < sorters && n < last; ++n) {
    if (p.ids[n] != p.padding_idx) tokens[own[p.ids[n]]++] = n;
  }
  team.barrier->wait();
  return end;
}

// One chain of additions a row, whoever makes it. Members share out the work by columns of a
// row's tokens, so that one symbol that is half of a text is not one member's alone. Rows of
// grad come in no order that a processor could guess, so they are asked for early.
constexpr int64_t kRowsAhead = 16;
template <class T>
void embedding_backward_sorted(const EmbeddingBackwardParams<T>& p, const Team& team) {
  const int64_t *end = sort_tokens(p, team), *tokens = p.order;
  const int64_t all = p.V > 0 ? end[p.V - 1] : 0, lines = ceil_div(p.E, kLine<T>);
  const int64_t work = (all + p.V) * lines;  // a row costs a token more
  const int64_t mine = team.begin(work), past = team.end(work);
  for (int64_t v = 0, begin = 0; v < p.V; begin = end[v++]) {
    const int64_t count = end[v] - begin, before = (begin + v) * lines;
    if (before >= past || before + (count + 1) * lines <= mine) continue;
    const int64_t from = before < mine ? ceil_div(mine - before, count + 1) * kLine<T> : 0;
    const int64_t to = smaller(ceil_div(past - before, count + 1) * kLine<T>, p.E),
                  n = to - from;
    if (n <= 0) continue;
    T* out = p.grad_weight + v * p.E + from;
    if (count == 0) std::memset(out, 0, sizeof(T) * n);
    for (int64_t i = 0; i < count; i += kSumRows) {
      const int64_t some = smaller(count - i, kSumRows);
      const T *rows[kSumRows] = {}, *soon[kSumRows] = {};
      for (int64_t r = 0; r < some; ++r) {
        const int64_t here = begin + i + r, ahead = smaller(here + kRowsAhead, all - 1);
        rows[r] = p.grad + tokens[here] * p.E + from;
        soon[r] = p.grad + tokens[ahead] * p.E + from;
      }
      sum_some_rows(some, rows, soon, out, n, i > 0);
    }
    if (!p.counts || count == 0) continue;
    for (int64_t e = 0; e < n; ++e) out[e] /= static_cast<T>(count);
  }
}

// out[0..n) += row[0..n), and what stands kAhead bytes after row is asked for, into L2: on
// its own a processor looks no further than the end of a page, and lines on their way into L1
// would hold up those that are needed now. It tells most where rows are short.
constexpr int64_t kAhead = 1 << 13;
template <class T>
FASTCHAR_INLINE void add_row(const T* row, T* out, int64_t n) {
  constexpr int64_t ahead = kAhead / sizeof(T);
  for (int64_t i = 0; i < n; i += kLanes<T>) {
    if (i % kLine<T> == 0) __builtin_prefetch(row + i + ahead, 0, 2);
    store_upto(out + i, load_upto(out + i, n - i) + load_upto(row + i, n - i), n - i);
  }
}

// Tokens come in chunks, fixed by the shapes, each with a table [V, E] of its own (chunk 0 adds
// into the output), so that grad is read once, row by row and whole rows at a time: as fast as
// memory gives it, and slices of columns, each read with a stride, are not. The tables
// are added in order: same bits for any team. Members beyond the chunks take slices of columns.
template <class T>
void embedding_backward(const EmbeddingBackwardParams<T>& p, const Team& team) {
  if (p.order) return embedding_backward_sorted(p, team);
  const int64_t E = p.E, chunks = embedding_backward_chunks(p.N, p.V);
  const int64_t lines = ceil_div(E, kLine<T>);
  int64_t slices = ceil_div(team.size, chunks);
  if (slices > lines) slices = lines > 0 ? lines : 1;

  for (int64_t unit = team.begin(chunks * slices); unit < team.end(chunks * slices); ++unit) {
    const int64_t chunk = unit / slices, slice = unit % slices;
    const int64_t begin = lines * slice / slices * kLine<T>;
    const int64_t end = slice == slices - 1 ? E : lines * (slice + 1) / slices * kLine<T>;
    T* table = chunk == 0 ? p.grad_weight : p.tables + (chunk - 1) * p.V * E;
    if (slices == 1) {  // many short rows cost a call each more than their bytes
      std::memset(table, 0, sizeof(T) * p.V * E);
    } else {
      for (int64_t v = 0; v < p.V; ++v) {
        std::memset(table + v * E + begin, 0, sizeof(T) * (end - begin));
      }
    }
    for (int64_t n = p.N * chunk / chunks; n < p.N * (chunk + 1) / chunks; ++n) {
      if (p.ids[n] == p.padding_idx) continue;
      T* row = table + p.ids[n] * E + begin;
      add_row(p.grad + n * E + begin, row, end - begin);
    }
  }
  if (chunks == 1 && !p.counts) return;
  if (p.counts && team.rank == 0) {
    std::memset(p.counts, 0, sizeof(int64_t) * p.V);
    for (int64_t n = 0; n < p.N; ++n) ++p.counts[p.ids[n]];
  }
  team.barrier->wait();

  for (int64_t v = team.begin(p.V); v < team.end(p.V); ++v) {
    T* row = p.grad_weight + v * E;
    for (int64_t chunk = 1; chunk < chunks; ++chunk) {
      add_row(p.tables + ((chunk - 1) * p.V + v) * E, row, E);
    }
    if (!p.counts || p.counts[v] == 0) continue;
    for (int64_t e = 0; e < E; ++e) row[e] /= static_cast<T>(p.counts[v]);
  }
}
