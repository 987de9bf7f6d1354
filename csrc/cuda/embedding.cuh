// Embedding: the gather, and its gradient as a deterministic scatter-add.
//
// The gradient is a counting sort of the tokens by id, then sums of rows:
//   count_ids    each warp counts the ids of its own run of tokens ("chunk")
//   scan_chunks  for each id, where the tokens of each chunk begin among the id's tokens
//   scan_ids     where each id's tokens and pieces begin
//   order_tokens the tokens of each id, in their order
//   sum_pieces   at most `piece` tokens of one id -> one row of partial sums
//   sum_ids      the pieces of one id, in order -> its row of the gradient
// A frequent id is many pieces, so a skewed text costs what a uniform one does. Every sum has a
// fixed order; the atomics count integers. N < 2^31, V <= kMaxIds.
#pragma once

#include "rows.cuh"

namespace fastchar::cuda {

// out[n, :] = weight[ids[n], :]
template <class T>
struct EmbeddingParams {
  const T* weight;     // [V, E]
  const int64_t* ids;  // [N]
  T* out;              // [N, E]
  int64_t N, V, E;
};

constexpr int kMaxIds = 8192;  // counts of a warp's chunk stay in shared memory
constexpr int kMaxChunks = 1024;

template <class T>
struct EmbeddingBackwardParams {
  const T* grad;       // [N, E]
  const int64_t* ids;  // [N]
  T* grad_weight;      // [V, E]
  int* chunk_start;    // [V, chunks]: counts, then starts among the id's tokens
  int* id_count;       // [V]
  int* id_start;       // [V + 1] in `tokens`
  int* piece_start;    // [V + 1]
  int* tokens;         // [N], sorted by id
  Acc<T>* partial;     // [max_pieces, E]
  int64_t N, V, E;
  int64_t padding_idx;  // its tokens are left out, V too: an id of no row; -1: none
  bool scale_grad_by_freq;
  int chunks, chunk;   // tokens per chunk, a multiple of 32
  int piece;           // tokens per piece
  int64_t max_pieces;  // what any ids can need
};

// Fills in chunks, piece and max_pieces from N and V.
template <class T>
void plan_embedding_backward(EmbeddingBackwardParams<T>& p) {
  const int64_t most = (p.N + kMaxChunks - 1) / kMaxChunks;
  p.chunk = static_cast<int>(((most < 256 ? 256 : most) + kWarp - 1) / kWarp * kWarp);
  p.chunks = static_cast<int>((p.N + p.chunk - 1) / p.chunk);
  if (p.chunks < 1) p.chunks = 1;
  p.piece = 16;  // enough pieces to fill a GPU, and partial sums that cost little beside grad
  while (p.piece < 256 && p.piece * 2048 < p.N) p.piece *= 2;
  p.max_pieces = p.N / p.piece + (p.V < p.N ? p.V : p.N);
}

// Grid: (N / rows of a block, column tiles).
template <class T, int n>
__global__ void __launch_bounds__(kRowThreads) embedding_gather(EmbeddingParams<T> p) {
  const int lanes = lanes_per_row<n>(p.E), rows = kRowThreads / lanes;
  const int64_t token = static_cast<int64_t>(blockIdx.x) * rows + threadIdx.x / lanes;
  const int64_t column = (static_cast<int64_t>(blockIdx.y) * lanes + threadIdx.x % lanes) * n;
  if (token >= p.N || column >= p.E) return;
  const int64_t id = p.ids[token];
  FASTCHAR_DEVICE_CHECK(id >= 0 && id < p.V);
  store_pack<T, n>(p.out + token * p.E + column, load_pack<T, n>(p.weight + id * p.E + column));
}

// out [T, B] of N elements: the ids before each sequence's end, `other` past it, where what
// stands is not read.
static __global__ void __launch_bounds__(kRowThreads)
    mask_ids(const int64_t* ids, const int64_t* lengths, int64_t* out, int64_t N, int64_t B,
             int64_t other) {
  const int64_t token = static_cast<int64_t>(blockIdx.x) * kRowThreads + threadIdx.x;
  if (token >= N) return;
  out[token] = token / B < lengths[token % B] ? ids[token] : other;
}

// each(i, read(i)) for i = begin..end-1, 32 at a time, in order: all lanes of the warp
// together, those past the end with `other`. What a warp that is alone in its block waits for
// is memory, so a lane has several integers on their way at once.
template <class Value, class Read, class Each>
FASTCHAR_INLINE void read_ahead(int64_t begin, int64_t end, Value other, const Read& read,
                                const Each& each) {
  constexpr int kAhead = 8;
  const int lane = threadIdx.x % kWarp;
  for (int64_t first = begin; first < end; first += kAhead * kWarp) {
    Value value[kAhead];
#pragma unroll
    for (int a = 0; a < kAhead; ++a) {
      const int64_t i = first + a * kWarp + lane;
      value[a] = i < end ? read(i) : other;
    }
#pragma unroll
    for (int a = 0; a < kAhead; ++a) {
      if (first + a * kWarp >= end) break;
      each(first + a * kWarp + lane, value[a]);
    }
  }
}

// The same for the tokens of a chunk: each(token, id). Past the end is padding_idx, which is
// left out.
template <class T, class Each>
FASTCHAR_INLINE void each_token(const EmbeddingBackwardParams<T>& p, int chunk,
                                const Each& each) {
  const int64_t begin = static_cast<int64_t>(chunk) * p.chunk;
  read_ahead(
      begin, begin + p.chunk < p.N ? begin + p.chunk : p.N, p.padding_idx,
      [&](int64_t token) { return p.ids[token]; }, each);
}

// One warp per chunk; dynamic shared memory: V counts.
template <class T>
__global__ void __launch_bounds__(kWarp) count_ids(EmbeddingBackwardParams<T> p) {
  FASTCHAR_DYNAMIC_SHARED(memory);
  int* count = reinterpret_cast<int*>(memory);
  const int lane = threadIdx.x, chunk = blockIdx.x;
  for (int v = lane; v < p.V; v += kWarp) count[v] = 0;
  __syncwarp();
  each_token(p, chunk, [&](int64_t, int64_t id) {
    if (id == p.padding_idx) return;
    FASTCHAR_DEVICE_CHECK(id >= 0 && id < p.V);
    atomicAdd(count + id, 1);
  });
  __syncwarp();
  for (int v = lane; v < p.V; v += kWarp) {
    p.chunk_start[static_cast<int64_t>(v) * p.chunks + chunk] = count[v];
  }
}

// In place, over the warp's lanes: the sum of the lanes before this one. Returns the sum of
// all.
FASTCHAR_INLINE int exclusive_scan(int& value) {
  const int lane = threadIdx.x % kWarp, own = value;
  for (int step = 1; step < kWarp; step *= 2) {
    const int other = __shfl_up_sync(kAllLanes, value, step);
    if (lane >= step) value += other;
  }
  const int total = __shfl_sync(kAllLanes, value, kWarp - 1);
  value -= own;
  return total;
}

// One warp per id.
template <class T>
__global__ void __launch_bounds__(kWarp) scan_chunks(EmbeddingBackwardParams<T> p) {
  int* start = p.chunk_start + static_cast<int64_t>(blockIdx.x) * p.chunks;
  int before = 0;
  read_ahead(
      0, p.chunks, 0, [&](int64_t chunk) { return start[chunk]; },
      [&](int64_t chunk, int value) {
        const int total = exclusive_scan(value);
        if (chunk < p.chunks) start[chunk] = before + value;
        before += total;
      });
  if (threadIdx.x == 0) p.id_count[blockIdx.x] = before;
}

// One warp.
template <class T>
__global__ void __launch_bounds__(kWarp) scan_ids(EmbeddingBackwardParams<T> p) {
  int tokens = 0, pieces = 0;
  read_ahead(
      0, p.V, 0, [&](int64_t v) { return p.id_count[v]; },
      [&](int64_t v, int count) {
        int token = count, piece = (count + p.piece - 1) / p.piece;
        const int more_tokens = exclusive_scan(token), more_pieces = exclusive_scan(piece);
        if (v < p.V) {
          p.id_start[v] = tokens + token;
          p.piece_start[v] = pieces + piece;
        }
        tokens += more_tokens;
        pieces += more_pieces;
      });
  if (threadIdx.x == 0) {
    p.id_start[p.V] = tokens;
    p.piece_start[p.V] = pieces;
  }
}

// One warp per chunk; dynamic shared memory: V positions.
template <class T>
__global__ void __launch_bounds__(kWarp) order_tokens(EmbeddingBackwardParams<T> p) {
  FASTCHAR_DYNAMIC_SHARED(memory);
  int* next = reinterpret_cast<int*>(memory);
  const int lane = threadIdx.x, chunk = blockIdx.x;
  for (int v = lane; v < p.V; v += kWarp) {
    next[v] = p.id_start[v] + p.chunk_start[static_cast<int64_t>(v) * p.chunks + chunk];
  }
  each_token(p, chunk, [&](int64_t token, int64_t given) {
    __syncwarp();  // next[] of the 32 tokens before
    const int id = given == p.padding_idx ? -1 : static_cast<int>(given);
    const unsigned same = __match_any_sync(kAllLanes, id);
    const int rank = __popc(same & ((1u << lane) - 1));
    const int position = id >= 0 ? next[id] + rank : 0;
    __syncwarp();
    if (id < 0) return;
    p.tokens[position] = static_cast<int>(token);
    if (rank == 0) next[id] += __popc(same);
  });
}

// The last of start[0..V-1] that is <= i: the id whose piece i is. Ids without pieces share
// their start with the id after them, so the last one it is.
FASTCHAR_INLINE int find_id(const int* start, int V, int i) {
  int low = 0, high = V;  // start[low] <= i < start[high]
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (start[middle] <= i) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

// Grid: (max_pieces, column tiles).
template <class T, int n>
__global__ void __launch_bounds__(kRowThreads) sum_pieces(EmbeddingBackwardParams<T> p) {
  const int V = static_cast<int>(p.V), i = blockIdx.x;
  if (i >= p.piece_start[V]) return;
  const int v = find_id(p.piece_start, V, i);
  const int begin = p.id_start[v] + (i - p.piece_start[v]) * p.piece;
  const int left = p.id_start[v + 1] - begin;
  const int* tokens = p.tokens + begin;
  const auto row = [&](int64_t k) { return p.grad + tokens[k] * p.E; };
  const RowSum<T, n, decltype(row)> sum(row, left < p.piece ? left : p.piece, p.E, blockIdx.y);
  if (!sum.mine) return;
  Acc<T>* out = p.partial + i * p.E + sum.column;
  for (int e = 0; e < n; ++e) out[e] = sum.value[e];
}

// Grid: (V, column tiles); n is for rows of Acc<T>.
template <class T, int n>
__global__ void __launch_bounds__(kRowThreads) sum_ids(EmbeddingBackwardParams<T> p) {
  const int v = blockIdx.x, begin = p.piece_start[v];
  const auto row = [&](int64_t k) { return p.partial + (begin + k) * p.E; };
  const RowSum<Acc<T>, n, decltype(row)> sum(row, p.piece_start[v + 1] - begin, p.E,
                                             blockIdx.y);
  if (!sum.mine) return;
  const int count = p.id_count[v];
  const Acc<T> scale = p.scale_grad_by_freq && count > 0 ? Acc<T>(1) / count : Acc<T>(1);
  T* out = p.grad_weight + v * p.E + sum.column;
  for (int e = 0; e < n; ++e) out[e] = narrow<T>(sum.value[e] * scale);
}

}  // namespace fastchar::cuda
