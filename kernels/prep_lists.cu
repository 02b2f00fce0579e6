// prep_lists.cu -- block lists (rep/lists.h) from bits, a warp a row, both ways (prep.cuh).
//
// The bits are transposed first, 32 x 32 by ballots, so that both lists are made alike: bits are
// counted by row, one block sums the counts up, and a warp writes its row 32 blocks at a time, each
// where the bits below its own say. Every list is one pass over its bits, ascending and the same every
// time. The bits take (rows x columns) / 8 bytes a head while building, a 1 / (64 x kept) of the lists.
#include "prep.cuh"

namespace {

enum { WARPS = 8, SUM_THREADS = 1024, SUM_EACH = 4 };

__host__ __device__ __forceinline__ int32_t words_of(int32_t bits) { return (bits + 31) / 32; }

// to [heads, columns, words of rows] = from [heads, rows, words of columns]; a warp 32 x 32 bits.
__global__ void transpose_bits(const uint32_t *from, uint32_t *to, int32_t rows, int32_t columns) {
  const int w = blockIdx.x * WARPS + threadIdx.x / 32, lane = threadIdx.x % 32, head = blockIdx.z;
  const int row = blockIdx.y * 32 + lane, column = w * 32 + lane;
  if (w >= words_of(columns))
    return;
  const uint32_t in =
      row < rows ? from[((int64_t)head * rows + row) * words_of(columns) + w] : 0;
  uint32_t out = 0;
#pragma unroll
  for (int b = 0; b < 32; b++) {
    const uint32_t word = __ballot_sync(~0u, in >> b & 1);
    out = lane == b ? word : out;
  }
  if (column < columns)
    to[((int64_t)head * columns + column) * words_of(rows) + blockIdx.y] = out;
}

// begin[r + 1] = bits of row r, a warp a row.
__global__ void count_bits(const uint32_t *bits, int64_t rows, int32_t words, int64_t *begin) {
  const int64_t row = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  if (row >= rows)
    return;
  int32_t n = 0;
  for (int32_t w = lane; w < words; w += 32)
    n += __popc(bits[row * words + w]);
#pragma unroll
  for (int by = 16; by > 0; by /= 2)
    n += __shfl_xor_sync(~0u, n, by);
  if (lane == 0)
    begin[row + 1] = n;
}

struct counts {
  int64_t *begin, rows; // begin[r + 1]: of row r
};

// Counts become sums: begin[r + 1] of rows 0 .. r, begin[0] = 0. One block an array. The 4096 counts
// of a round add up in 32 bits: with fewer than 2^19 columns, and more would be 32 GiB of bits.
__global__ void sum_counts(counts first, counts second) {
  __shared__ int32_t of_warp[SUM_THREADS / 32];
  const counts c = blockIdx.x ? second : first;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int64_t before = 0; // this round
  for (int64_t base = 0; base < c.rows; base += SUM_THREADS * SUM_EACH) {
    const int64_t at = base + threadIdx.x * SUM_EACH;
    int32_t sum[SUM_EACH], mine = 0;
#pragma unroll
    for (int e = 0; e < SUM_EACH; e++)
      sum[e] = mine += at + e < c.rows ? (int32_t)c.begin[at + e + 1] : 0;
    int32_t upto = mine; // of the warp's threads up to this one
#pragma unroll
    for (int by = 1; by < 32; by *= 2) {
      const int32_t below = __shfl_up_sync(~0u, upto, by);
      upto += lane >= by ? below : 0;
    }
    if (lane == 31)
      of_warp[warp] = upto;
    __syncthreads();
    int64_t start = before + upto - mine;
    for (int w = 0; w < SUM_THREADS / 32; w++) {
      start += w < warp ? of_warp[w] : 0;
      before += of_warp[w];
    }
    __syncthreads(); // of_warp is read
#pragma unroll
    for (int e = 0; e < SUM_EACH; e++)
      if (at + e < c.rows)
        c.begin[at + e + 1] = start + sum[e];
  }
  if (threadIdx.x == 0)
    c.begin[0] = 0;
}

// The entries of a row, a warp a row: a lane has the block of its bit, behind those of the bits below.
__global__ void write_lists(const uint32_t *seen, const uint32_t *full, int64_t rows, int32_t words,
                            block_lists lists) {
  const int64_t row = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  if (row >= rows)
    return;
  int64_t at = lists.begin[row];
  for (int32_t first = 0; first < words; first += 32) {
    const bool in = first + lane < words;
    const uint32_t some = in ? seen[row * words + first + lane] : 0,
                   all = in ? full[row * words + first + lane] : 0;
    for (int w = 0; w < min(32, words - first); w++) {
      const uint32_t listed = __shfl_sync(~0u, some, w), whole = __shfl_sync(~0u, all, w);
      const int32_t block = (first + w) * 32 + lane;
      if (listed >> lane & 1)
        lists.entry[at + __popc(listed & ((1u << lane) - 1))] = whole >> lane & 1 ? block : ~block;
      at += __popc(listed);
    }
  }
}

void transpose(const uint32_t *from, uint32_t *to, const block_bits &b) {
  transpose_bits<<<dim3((words_of(b.columns) + WARPS - 1) / WARPS, words_of(b.rows), b.heads),
                   WARPS * 32>>>(from, to, b.rows, b.columns);
}

unsigned blocks_of(int64_t rows) { return (unsigned)((rows + WARPS - 1) / WARPS); }

} // namespace

int prep_lists(block_lists *q2k, block_lists *k2q, const block_bits &b, gpu_memory &memory,
               int64_t *bytes) {
  const int64_t rows = (int64_t)b.heads * b.rows, columns = (int64_t)b.heads * b.columns;
  const int32_t row_words = words_of(b.columns), column_words = words_of(b.rows);
  const bool mixed = b.full != b.seen;
  gpu_memory building;
  int64_t passing = 0, total;
  uint32_t *seen, *full; // transposed
  if (building.get(&seen, columns * column_words, &passing) ||
      building.get(&full, mixed ? columns * column_words : 0, &passing) ||
      memory.get(&q2k->begin, rows + 1, bytes) || memory.get(&k2q->begin, columns + 1, bytes))
    return -1;
  transpose(b.seen, seen, b);
  if (mixed)
    transpose(b.full, full, b);
  count_bits<<<blocks_of(rows), WARPS * 32>>>(b.seen, rows, row_words, q2k->begin);
  count_bits<<<blocks_of(columns), WARPS * 32>>>(seen, columns, column_words, k2q->begin);
  sum_counts<<<2, SUM_THREADS>>>(counts{q2k->begin, rows}, counts{k2q->begin, columns});
  GPU_LAUNCHED("counting the blocks of the mask");
  GPU_TRY(cudaMemcpy(&total, q2k->begin + rows, sizeof total, cudaMemcpyDeviceToHost));
  if (memory.get(&q2k->entry, total, bytes) || memory.get(&k2q->entry, total, bytes))
    return -1;
  write_lists<<<blocks_of(rows), WARPS * 32>>>(b.seen, b.full, rows, row_words, *q2k);
  write_lists<<<blocks_of(columns), WARPS * 32>>>(seen, mixed ? full : seen, columns, column_words,
                                                  *k2q);
  GPU_LAUNCHED("listing the blocks of the mask");
  GPU_TRY(cudaDeviceSynchronize()); // `building` ends here
  return 0;
}
