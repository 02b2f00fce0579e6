// tile.c -- one query tile against one key tile, forward and backward: the arithmetic of the CPU engine,
// by the pieces of vector.h and rows.h. Compiled once per instruction set (cpu.mk); plain C with compiler
// vectors, so the compiler chooses the instructions.
//
// A block of MR rows visits only the keys between its first and its last visible one, so a mask's
// boundary costs MR x NR granules, not whole tiles.
#include "rows.h"
#include "vector.h"

// Visible keys of each block of MR rows, as [begin, end); begin = end: none.
struct extent {
  int begin[BLOCKS], end[BLOCKS], blocks;
};

static void extents(struct extent *e, const struct cpu_rows *r, const struct cpu_visible *seen) {
  e->blocks = (r->rows + MR - 1) / MR;
  for (int b = 0; b < e->blocks; b++) {
    if (seen->full) {
      e->begin[b] = 0, e->end[b] = CPU_TK;
      continue;
    }
    const int last = (b + 1) * MR <= r->rows ? (b + 1) * MR - 1 : r->rows - 1;
    uint64_t lo = 0, hi = 0;
    for (int q = b * MR / r->heads; q <= last / r->heads; q++)
      lo |= seen->bits[q][0], hi |= seen->bits[q][1];
    e->begin[b] = lo ? __builtin_ctzll(lo) : hi ? 64 + __builtin_ctzll(hi) : 0;
    e->end[b] = hi ? 128 - __builtin_clzll(hi) : lo ? 64 - __builtin_clzll(lo) : 0;
  }
}

// S = A B over the columns that each block sees; A [TM, LD(dim)], B [dim, LDS]. At the ends of an extent
// a single vector of columns is computed where that is enough.
INLINE void scores(const struct extent *e, int dim, const float *a, const float *b, float *s) {
  for (int k = 0; k < CPU_TK; k += NR)
    for (int m = 0; m < e->blocks; m++) {
      if (e->begin[m] >= k + NR || e->end[m] <= k)
        continue;
      const float *rows = a + m * MR * CPU_LD(dim);
      float *to = s + m * MR * CPU_LDS + k;
      if (e->end[m] <= k + VW)
        micro(1, dim, rows, CPU_LD(dim), 1, b + k, CPU_LDS, to, CPU_LDS, false);
      else if (e->begin[m] >= k + NR - VW)
        micro(1, dim, rows, CPU_LD(dim), 1, b + k + NR - VW, CPU_LDS, to + NR - VW, CPU_LDS, false);
      else
        micro(NV, dim, rows, CPU_LD(dim), 1, b + k, CPU_LDS, to, CPU_LDS, false);
    }
}

// C [TM, LD(dim)] += S B over the columns that each block sees; B [TK, LD(dim)].
INLINE void rows_product(const struct extent *e, int dim, const float *s, const float *b,
                         float *c) {
  for (int j = 0; j < dim; j += NR)
    for (int m = 0; m < e->blocks; m++)
      if (e->begin[m] < e->end[m])
        micro(NV, e->end[m] - e->begin[m], s + m * MR * CPU_LDS + e->begin[m], CPU_LDS, 1,
              b + e->begin[m] * CPU_LD(dim) + j, CPU_LD(dim), c + m * MR * CPU_LD(dim) + j,
              CPU_LD(dim), true);
}

// How far, in powers of two, a score may exceed the running maximum before O and the sum are scaled
// down to it: P stays below 2^8, far from what fp32 can hold, and hardly any tile but the first scales.
#define SLACK 8.f

// Online softmax of one row over the columns [begin, end), multiples of VW: S becomes P, and O is
// scaled down when the maximum grows.
INLINE void softmax_row(struct cpu_rows *r, int row, int begin, int end, const uint64_t *bits,
                        int dim) {
  float *s = r->s + row * CPU_LDS;
  for (int k = begin; bits && k < end; k += VW)
    store(s + k, select(lanes_seen(bits, k), load(s + k), splat(-INFINITY)));
  const float peak = max_of(s + begin, end - begin);
  float max = r->max[row];
  vec sum = load(r->sum + row * CPU_LANES);
  if (peak > max + SLACK) { // a row that has seen nothing has max = -inf, sum = 0 and O = 0
    if (max > -INFINITY) {
      const vec alpha = exp2_vec(splat(max - peak));
      float *o = r->acc + row * CPU_LD(dim);
      for (int j = 0; j < dim; j += VW)
        store(o + j, load(o + j) * alpha);
      sum *= alpha;
    }
    r->max[row] = max = peak;
  }
  // A row that has seen nothing so far has max = -inf: any finite number in its place gives P = 0.
  const float base = max == -INFINITY ? 0 : max;
  for (int k = begin; k < end; k += VW) {
    const vec p = exp2_vec(load(s + k) - base);
    store(s + k, p);
    sum += p;
  }
  store(r->sum + row * CPU_LANES, sum);
}

INLINE void forward(struct cpu_rows *r, int dim, const float *k_t, const float *v,
                    const struct cpu_visible *seen) {
  struct extent e;
  extents(&e, r, seen);
  scores(&e, dim, r->q, k_t, r->s);
  for (int row = 0; row < r->rows; row++) {
    const int b = row / MR;
    if (e.begin[b] < e.end[b])
      softmax_row(r, row, e.begin[b] / VW * VW, (e.end[b] + VW - 1) / VW * VW,
                  seen->full ? NULL : seen->bits[row / r->heads], dim);
  }
  rows_product(&e, dim, r->s, v, r->acc);
}

static void forward_tile(struct cpu_rows *r, const float *k_t, const float *v,
                         const struct cpu_visible *seen) {
  if (r->dim == 64)
    forward(r, 64, k_t, v, seen);
  else
    forward(r, 128, k_t, v, seen);
}

// P = 2^(S scale - LSE) and dS = P (dP - delta) of one row, in place; 0 where nothing is seen.
INLINE void gradient_row(struct cpu_rows *r, int row, int begin, int end, const uint64_t *bits) {
  float *s = r->s + row * CPU_LDS, *ds = r->ds + row * CPU_LDS;
  const float lse = r->lse[row], delta = r->delta[row], scale = r->scale_l2;
  for (int k = begin; k < end; k += VW) {
    vec p = exp2_vec(load(s + k) * scale - lse);
    vec d = p * (load(ds + k) - delta);
    if (bits) {
      const ivec on = lanes_seen(bits, k);
      p = (vec)((ivec)p & on), d = (vec)((ivec)d & on);
    }
    store(s + k, p);
    store(ds + k, d);
  }
}

// dV += P^T dO or dK += dS^T Q: C [TK, LD(dim)] += S^T B, B [TM, LD(dim)], the sum over the rows
// between the first and the last block that sees the keys of a block of C.
INLINE void keys_product(const struct extent *e, int rows, int dim, const float *s, const float *b,
                         float *c) {
  int first[CPU_TK / MR], last[CPU_TK / MR];
  for (int k = 0; k < CPU_TK / MR; k++) {
    first[k] = e->blocks, last[k] = -1;
    for (int m = 0; m < e->blocks; m++)
      if (e->begin[m] < (k + 1) * MR && e->end[m] > k * MR) {
        first[k] = m < first[k] ? m : first[k];
        last[k] = m;
      }
  }
  for (int j = 0; j < dim; j += NR)
    for (int k = 0; k < CPU_TK / MR; k++)
      if (first[k] <= last[k]) {
        const int begin = first[k] * MR,
                  end = (last[k] + 1) * MR < rows ? (last[k] + 1) * MR : rows;
        micro(NV, end - begin, s + begin * CPU_LDS + k * MR, 1, CPU_LDS,
              b + begin * CPU_LD(dim) + j, CPU_LD(dim), c + k * MR * CPU_LD(dim) + j, CPU_LD(dim),
              true);
      }
}

INLINE void backward(struct cpu_rows *r, int dim, const float *k_t, const float *v_t,
                     const float *k, const struct cpu_visible *seen, float *dk, float *dv) {
  struct extent e;
  extents(&e, r, seen);
  scores(&e, dim, r->q, k_t, r->s);
  scores(&e, dim, r->d_o, v_t, r->ds);
  for (int row = 0; row < r->rows; row++) {
    const int b = row / MR, begin = e.begin[b] / VW * VW, end = (e.end[b] + VW - 1) / VW * VW;
    float *s = r->s + row * CPU_LDS, *ds = r->ds + row * CPU_LDS;
    if (!seen->full) { // outside its own extent a row may lie within its neighbours'
      const int none = e.begin[b] < e.end[b] ? begin : CPU_TK;
      memset(s, 0, none * sizeof *s), memset(ds, 0, none * sizeof *ds);
      if (none < CPU_TK) {
        memset(s + end, 0, (CPU_TK - end) * sizeof *s);
        memset(ds + end, 0, (CPU_TK - end) * sizeof *ds);
      }
    }
    if (e.begin[b] < e.end[b])
      gradient_row(r, row, begin, end, seen->full ? NULL : seen->bits[row / r->heads]);
  }
  keys_product(&e, r->rows, dim, r->s, r->d_o, dv);
  keys_product(&e, r->rows, dim, r->ds, r->q, dk);
  rows_product(&e, dim, r->ds, k, r->acc);
}

static void backward_tile(struct cpu_rows *r, const float *k_t, const float *v_t, const float *k,
                          const struct cpu_visible *seen, float *dk, float *dv) {
  if (r->dim == 64)
    backward(r, 64, k_t, v_t, k, seen, dk, dv);
  else
    backward(r, 128, k_t, v_t, k, seen, dk, dv);
}

static void product(int m, int n, int k, const float *a, int64_t a_row, int64_t a_col,
                    const float *b, int64_t ldb, float *c, int64_t ldc, bool add) {
  for (int j = 0; j < n; j += NR)
    for (int i = 0; i < m; i += MR)
      micro(NV, k, a + i * a_row, a_row, a_col, b + j, ldb, c + i * ldc + j, ldc, add);
}

// Sixteen independent chains of x = x a + b, values that the compiler cannot know.
static double peak(int64_t rounds) {
  enum { CHAINS = VW == 16 ? 16 : 12 };
  static volatile float source = 0.5f, sink;
  const vec a = splat(source), b = splat(source);
  vec x[CHAINS];
#pragma GCC unroll 16
  for (int i = 0; i < CHAINS; i++)
    x[i] = splat(source + i);
  for (int64_t n = 0; n < rounds; n++) {
#pragma GCC unroll 16
    for (int i = 0; i < CHAINS; i++)
      x[i] = x[i] * a + b;
  }
  vec sum = splat(0);
#pragma GCC unroll 16
  for (int i = 0; i < CHAINS; i++)
    sum += x[i];
  sink = sum[0];
  (void)sink;
  return 2.0 * CHAINS * VW * rounds;
}

extern const struct cpu_isa CPU_ISA;
const struct cpu_isa CPU_ISA = {
    .name = CPU_ISA_NAME,
    .lanes = VW,
    .usable = usable,
    .forward = forward_tile,
    .backward = backward_tile,
    .product = product,
    .load_row = load_row,
    .store_row = store_row,
    .add_row = add_row,
    .dot = dot,
    .exp2_row = exp2_row,
    .pack = pack,
    .peak = peak,
};
