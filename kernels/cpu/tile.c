// tile.c -- the arithmetic of the CPU engine: one query tile against one key tile.
//
// Compiled once per instruction set (cpu.mk); plain C with compiler vectors, so the compiler chooses
// the instructions. All products are C[MR, NR] += A B by one micro-kernel: MR x NV vectors of C stay in
// registers, each step loads NV vectors of a row of B and broadcasts MR numbers of A (BLIS, "Anatomy of
// High-Performance Matrix Multiplication"). MR x NR: 8 x 32 with 32 vector registers, 4 x 16 or 4 x 8
// with 16.
//
// A block of MR rows visits only the keys between its first and its last visible one, so a mask's
// boundary costs MR x NR granules, not whole tiles.
#include <float.h>
#include <math.h>
#include <string.h>

#include "cpu.h"

#if defined(__AVX512F__)
#define VW 16
enum { MR = 8, NV = 2 };
#define CPU_ISA cpu_isa_avx512
#define CPU_ISA_NAME "avx512"
static bool usable(void) {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512cd");
}
#elif defined(__AVX2__)
#define VW 8
enum { MR = 4, NV = 2 };
#define CPU_ISA cpu_isa_avx2
#define CPU_ISA_NAME "avx2"
static bool usable(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
#else
#define VW 4
#ifdef __aarch64__
enum { MR = 8, NV = 2 };
#else
enum { MR = 4, NV = 2 };
#endif
#define CPU_ISA cpu_isa_base
#define CPU_ISA_NAME "base"
static bool usable(void) { return true; }
#endif
enum { NR = VW * NV, BLOCKS = CPU_TM / MR };
_Static_assert(CPU_TM % MR == 0 && CPU_TK % MR == 0 && CPU_TK % NR == 0 && 64 % NR == 0,
               "tiles are cut into whole micro-tiles");

typedef float vec __attribute__((vector_size(VW * 4), may_alias));
typedef int32_t ivec __attribute__((vector_size(VW * 4), may_alias));
typedef uint32_t uvec __attribute__((vector_size(VW * 4), may_alias));
typedef float quad __attribute__((vector_size(16), may_alias));
// Rows of the caller's tensors: any alignment.
typedef float loose_vec __attribute__((vector_size(VW * 4), aligned(4), may_alias));
typedef uint16_t half_vec __attribute__((vector_size(VW * 2), aligned(2), may_alias));
#define INLINE static inline __attribute__((always_inline))

INLINE vec load(const float *p) { return *(const vec *)p; }
INLINE void store(float *p, vec x) { *(vec *)p = x; }
INLINE vec splat(float x) { return x - (vec){0}; }
INLINE vec select(ivec mask, vec yes, vec no) {
  return (vec)((mask & (ivec)yes) | (~mask & (ivec)no));
}

// C[MR, nv * VW] (+)= sum over k < n of A[i * a_row + k * a_col] B[k, nv * VW]; nv is 1 or NV
INLINE void micro(int nv, int n, const float *a, int64_t a_row, int64_t a_col, const float *b,
                  int64_t ldb, float *c, int64_t ldc, bool add) {
  vec acc[MR][NV];
#pragma GCC unroll 8
  for (int i = 0; i < MR; i++)
#pragma GCC unroll 4
    for (int j = 0; j < nv; j++)
      acc[i][j] = add ? load(c + i * ldc + j * VW) : splat(0);
  for (int k = 0; k < n; k++, a += a_col, b += ldb) {
    vec row[NV];
#pragma GCC unroll 4
    for (int j = 0; j < nv; j++)
      row[j] = load(b + j * VW);
#pragma GCC unroll 8
    for (int i = 0; i < MR; i++) {
      const vec x = splat(a[i * a_row]);
#pragma GCC unroll 4
      for (int j = 0; j < nv; j++)
        acc[i][j] += x * row[j];
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < MR; i++)
#pragma GCC unroll 4
    for (int j = 0; j < nv; j++)
      store(c + i * ldc + j * VW, acc[i][j]);
}

// 2^x for x <= about 0, 0 below 2^-126, NaN for NaN. 2^x = 2^n 2^f, n = round(x): adding 1.5 * 2^23
// leaves n in the low bits. Minimax polynomial of 2^f on [-1/2, 1/2], relative error 7.5e-8.
INLINE vec exp2_vec(vec x) {
  const vec magic = splat(12582912.f);
  const vec t = x + magic, f = x - (t - magic);
  vec p = splat(1.32764719924e-3f);
  p = p * f + 9.67554133444e-3f;
  p = p * f + 5.5507132735e-2f;
  p = p * f + 2.40221197238e-1f;
  p = p * f + 6.93146967065e-1f;
  p = p * f + 1.00000007165f;
  const uvec bits = (uvec)p + ((uvec)t << 23);
  return (vec)(bits & ~(uvec)(x < -126.f));
}

// Lane i of the result: whether key k + i is visible (all ones) or not.
INLINE ivec lanes_seen(const uint64_t *bits, int k) {
  ivec bit = {0};
#pragma GCC unroll 16
  for (int i = 0; i < VW; i++)
    bit[i] = 1 << i;
  const int32_t word = (int32_t)(bits[k / 64] >> (k % 64));
  return (bit & word) != 0;
}

// Largest of s[0, n), n a multiple of VW; -inf for none. As a reduction of floats it becomes vector
// maxima, which a comparison of compiler vectors does not.
INLINE float max_of(const float *s, int n) {
  float top = -INFINITY;
#pragma omp simd reduction(max : top) aligned(s : VW * 4)
  for (int k = 0; k < n / VW * VW; k++)
    top = s[k] > top ? s[k] : top;
  return top;
}

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

static void load_row(float *dst, const void *src, enum attn_dtype dtype, int64_t at, int dim,
                     float scale) {
  for (int j = 0; j < dim; j += VW)
    if (dtype == ATTN_FP32)
      store(dst + j, *(const loose_vec *)((const float *)src + at + j) * scale);
    else {
      const half_vec x = *(const half_vec *)((const uint16_t *)src + at + j);
      store(dst + j, (vec)(__builtin_convertvector(x, uvec) << 16) * scale);
    }
}

// bf16 by rounding to nearest even, as bf16_from_float() of src/tensor.h does; NaN stays NaN.
static void store_row(void *dst, enum attn_dtype dtype, int64_t at, const float *src, int dim,
                      float scale) {
  for (int j = 0; j < dim; j += VW) {
    const vec x = load(src + j) * scale;
    if (dtype == ATTN_FP32) {
      *(loose_vec *)((float *)dst + at + j) = x;
      continue;
    }
    const uvec u = (uvec)x, nan = (uvec)(x != x);
    const uvec rounded = u + 0x7fff + (u >> 16 & 1);
    *(half_vec *)((uint16_t *)dst + at + j) =
        __builtin_convertvector(((rounded & ~nan) | ((u | 0x400000) & nan)) >> 16, half_vec);
  }
}

static void add_row(float *dst, const float *src, int dim, float scale) {
  for (int j = 0; j < dim; j++)
    dst[j] += src[j] * scale;
}

static float dot(const float *a, const float *b, int dim) {
  vec sum = splat(0);
  float total = 0;
  for (int j = 0; j < dim; j += VW)
    sum += load(a + j) * load(b + j);
  for (int l = 0; l < VW; l++)
    total += sum[l];
  return total;
}

static float exp2_row(float *x, int64_t n, float base) {
  vec sum = splat(0);
  float total = 0;
  for (int64_t j = 0; j < n; j += VW) {
    const vec y = exp2_vec(load(x + j) - base);
    store(x + j, y);
    sum += y;
  }
  for (int l = 0; l < VW; l++)
    total += sum[l];
  return total;
}

// to[j][i] = from[i][j] for i, j < 4.
INLINE void transpose4(const float *from, int from_ld, float *to, int to_ld) {
  const quad a = *(const quad *)from, b = *(const quad *)(from + from_ld);
  const quad c = *(const quad *)(from + 2 * from_ld), d = *(const quad *)(from + 3 * from_ld);
  const quad ab01 = __builtin_shufflevector(a, b, 0, 4, 1, 5);
  const quad ab23 = __builtin_shufflevector(a, b, 2, 6, 3, 7);
  const quad cd01 = __builtin_shufflevector(c, d, 0, 4, 1, 5);
  const quad cd23 = __builtin_shufflevector(c, d, 2, 6, 3, 7);
  *(quad *)to = __builtin_shufflevector(ab01, cd01, 0, 1, 4, 5);
  *(quad *)(to + to_ld) = __builtin_shufflevector(ab01, cd01, 2, 3, 6, 7);
  *(quad *)(to + 2 * to_ld) = __builtin_shufflevector(ab23, cd23, 0, 1, 4, 5);
  *(quad *)(to + 3 * to_ld) = __builtin_shufflevector(ab23, cd23, 2, 3, 6, 7);
}

static void pack(float *dst, const void *src, const struct attn_problem *p, int kv, int32_t row,
                 int count, bool transposed) {
  enum { BLOCK = 16 };
  _Alignas(64) float rows[BLOCK][128];
  for (int k = 0; k < CPU_TK; k += BLOCK) {
    for (int i = 0; i < BLOCK; i++) {
      float *to = transposed ? rows[i] : dst + (k + i) * CPU_LD(p->dim);
      if (k + i < count)
        load_row(to, src, p->dtype, ((int64_t)(row + k + i) * p->heads_kv + kv) * p->dim, p->dim,
                 1);
      else
        memset(to, 0, (size_t)p->dim * sizeof *to);
    }
    for (int i = 0; transposed && i < BLOCK; i += 4)
      for (int j = 0; j < p->dim; j += 4)
        transpose4(&rows[i][j], 128, dst + j * CPU_LDS + k + i, CPU_LDS);
  }
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
