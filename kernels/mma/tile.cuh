// tile.cuh -- pieces of the mma engine: swizzled tiles in shared memory, fragments of them, the
// walk over a work list's runs, and one query row's view of a mask representation.
//
// A tile is rows of DIM bf16 (128 or 256 bytes). Its 16-byte chunk c of row r lies at chunk c ^ (r
// % 8), so the eight rows that one ldmatrix phase reads fall into different banks.
#ifndef LONGCA_MMA_TILE_CUH
#define LONGCA_MMA_TILE_CUH

#include "../gpu.cuh"
#include "../ptx/math.cuh"
#include "../ptx/mma.cuh"
#include "../ptx/sync.cuh"
#include "../worklist.h"

namespace mma {

// Shared-memory address of chunk `chunk` (16 bytes) of row `row`.
template<int DIM> __device__ __forceinline__ uint32_t at(uint32_t tile, int row, int chunk) {
  return tile + row * (DIM * 2) + ((chunk ^ (row & 7)) << 4);
}

// ROWS x DIM from global rows [row, row + limit) of pitch `pitch` elements; zeros past the limit. All, or
// a part of what each thread does: copies begin, ..., end - 1 of ROWS * DIM / 8 / THREADS.
template<int DIM, int ROWS, int THREADS>
__device__ __forceinline__ void load(uint32_t tile, const bf16 *src, int32_t pitch, int limit,
                                     int begin = 0, int end = ROWS * DIM / 8 / THREADS) {
  constexpr int CHUNKS = DIM / 8, STEP = THREADS / CHUNKS;
  const int row = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS;
  static_assert(ROWS % STEP == 0 && (STEP % 8 == 0 || STEP == 4),
                "a thread keeps its swizzled chunk from row to row, but for one bit");
  src += row * pitch + chunk * 8; // fits: at most 128 rows
  uint32_t dst = at<DIM>(tile, row, chunk);
#pragma unroll
  for (int r = begin * STEP; r < end * STEP; r += STEP)
    ptx::copy_async_16((dst ^ (r & 4) << 4) + r * DIM * 2, src + r * pitch, row + r < limit);
}

// Where a thread reads fragments of a tile, from a corner on, by constants: a further column is one
// exclusive or, and further rows (multiples of 8) and tiles behind this one are offsets within the
// instruction. The columns asked for lie in an aligned power of two of them.
template<int DIM> struct fragments {
  uint32_t tile, first; // `first` within the tile: its rows begin at multiples of their length

  // `along`: lanes 0 to 15 name 16 rows (A, or B's transpose); else lanes 8 to 15 name the next 8
  // columns of rows 0 to 7 (B, or A's transpose).
  __device__ __forceinline__ fragments(uint32_t tile, int row, int col, bool along) : tile(tile) {
    const int lane = threadIdx.x % 32;
    first = along ? at<DIM>(0, row + lane % 16, col / 8 + lane / 16)
                  : at<DIM>(0, row + lane % 8 + lane / 16 * 8, col / 8 + lane / 8 % 2);
  }
  __device__ __forceinline__ uint32_t there(int row, int col, uint32_t beyond) const {
    return tile + (first ^ col * 2) + row * DIM * 2 + beyond;
  }
  __device__ __forceinline__ void load(uint32_t (&x)[4], int row, int col,
                                       uint32_t beyond = 0) const {
    ptx::ldmatrix(x, there(row, col, beyond));
  }
  __device__ __forceinline__ void load_trans(uint32_t (&x)[4], int row, int col,
                                             uint32_t beyond = 0) const {
    ptx::ldmatrix_trans(x, there(row, col, beyond));
  }
};

// One inner tile: rows [row, row + limit) at positions pos, ...; `full` needs no mask.
struct inner {
  int32_t row, pos, limit;
  bool full;
};

// The inner tiles of one item, in order. Registers are short where it is used, so it holds two: the
// item lies in shared memory, and a run is read again (from L1) for each of its tiles.
template<int TILE> struct walk {
  const worklist_run *const &runs;
  const worklist_item &item;
  int32_t run, left; // left: tiles of `run` that are to come; 0: all runs are done

  __device__ walk(const worklist_view &list, const worklist_item &i) : runs(list.runs), item(i) {
    restart();
  }
  __device__ walk(const worklist_view &list, const worklist_item &i, int32_t run, int32_t left)
      : runs(list.runs), item(i), run(run), left(left) {}
  __device__ void restart() {
    run = item.run_begin;
    left = run < item.run_end ? runs[run].tiles : 0;
  }
  __device__ bool more() const { return left > 0; }
  __device__ inner tile() const {
    const int4 x = __ldg(reinterpret_cast<const int4 *>(runs + run)); // row, pos, tiles, valid
    const int32_t from = (x.z - left) * TILE;
    return {x.x + from, x.y + from, x.w && left == 1 ? x.w : TILE, x.w == 0};
  }
  __device__ void skip(int32_t tiles) { // fewer than are left
    for (; tiles >= left; left = runs[++run].tiles)
      tiles -= left;
    left -= tiles;
  }
  __device__ void advance() {
    if (--left == 0 && ++run < item.run_end)
      left = runs[run].tiles;
  }
};

// What query `q` sees of the keys [first, end). Each representation says it, in <rep>.cu: by its
// own short way for a row, or by one of the two macros below.
template<class Rep> struct row_view;

// -inf where a thread's scores are not visible. Its rows are `row` + 8 i, i < 4, of `rows` queries
// at positions q, ...; its columns 8 n + 2 (lane % 4) and the next, of keys at first, ..., end.
// Columns outside, rows inside: what a representation reads for a key it reads once. The fences
// keep the compiler from reading ahead for all columns at once, which would spill.
template<class Rep, int N>
__device__ __forceinline__ void hide(float (&s)[2][N][4], const Rep &rep, int head, int row,
                                     int rows, int q, int first, int end) {
  const auto view = [&](int i) {
    return row_view<Rep>(rep, head, q + min(row + 8 * i, rows - 1), first, end);
  };
  const row_view<Rep> views[4] = {view(0), view(1), view(2), view(3)};
#pragma unroll
  for (int n = 0; n < N; n++)
#pragma unroll
    for (int c = 0; c < 2; c++) {
      const int key = first + n * 8 + threadIdx.x % 4 * 2 + c;
#pragma unroll
      for (int i = 0; i < 4; i++) {
        float &x = s[i / 2][n][i % 2 * 2 + c];
        x = views[i].sees(key) ? x : -INFINITY;
      }
      asm volatile("" ::: "memory");
    }
}

// By X_row_bits: one look a row. At most 64 keys from `first`.
#define MMA_ROW_BITS(X)                                                                            \
  template<> struct mma::row_view<X> {                                                             \
    uint64_t word;                                                                                 \
    int first;                                                                                     \
    __device__ row_view(const X &rep, int head, int q, int k, int end) : word(0), first(k) {       \
      if (k < end)                                                                                 \
        X##_row_bits(&rep, head, q, k, min(64, end - k), &word);                                   \
    }                                                                                              \
    __device__ bool sees(int k) const { return word >> (k - first) & 1; }                          \
  };

// Pair by pair.
#define MMA_ALLOWS(X) \
  template<> struct mma::row_view<X> { \
    const X &rep; \
    int head, q, last; \
    __device__ row_view(const X &r, int h, int pos, int first, int end) \
        : rep(r), head(h), q(pos), last(end - 1) {} \
    __device__ bool sees(int k) const { \
      return (k <= last) & X##_allows(&rep, head, q, min(k, last)); \
    } \
  };

} // namespace mma
#endif
