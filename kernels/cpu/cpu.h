// cpu.h -- the CPU engine inside: what its portable half (engine.c: walks, scheduling, memory) and the
// half that is compiled once per instruction set (tile.c: products and softmax) say to each other.
//
// Rows are (query, head) pairs: the query heads of a GQA group stand together, so one load of K and V
// serves them all. Every matrix is fp32; its rows stand CPU_PAD floats further apart than they are
// long, so that a column of it spreads over all sets of the L1 cache instead of a few.
#ifndef LONGCA_CPU_H
#define LONGCA_CPU_H

#include "../attn.h"
#include "../rep/rep.h"

enum {
  CPU_TM = 128, // rows of a query tile
  CPU_TK = 128, // keys of a key tile; two 64-bit words of visibility
  CPU_PAD = 16,
  CPU_LDS = CPU_TK + CPU_PAD, // row stride of scores and of transposed keys
  CPU_LANES = 16,             // floats of the widest vector
};
#define CPU_LD(dim) ((dim) + CPU_PAD) // row stride of a matrix with `dim` columns

// One query tile on its way through the keys.
struct cpu_rows {
  int rows, heads, dim; // row r is query r / heads, head r % heads of the tile
  // Forward: q scaled by scale * log2(e). Backward: q as given.
  float *q;   // [TM, LD(dim)]
  float *acc; // [TM, LD(dim)] forward: O, unnormalised; backward: dQ
  float *s;   // [TM, LDS] scores, then probabilities
  float *max; // [TM] forward: running maximum of the scaled scores, base 2
  float *sum; // [TM, LANES] forward: running sum of the probabilities, by lane
  // Backward only.
  float *d_o;     // [TM, LD(dim)]
  float *ds;      // [TM, LDS] dP, then dS
  float *lse;     // [TM] base 2; +inf for a row that sees nothing
  float *delta;   // [TM] dO . O
  float scale_l2; // scale * log2(e)
};

// What the tile's queries see of one key tile.
struct cpu_visible {
  bool full;                          // every query sees every key, and there are CPU_TK of them
  uint64_t bits[CPU_TM][CPU_TK / 64]; // otherwise: bit i of query r
};

// One compiled copy of tile.c.
struct cpu_isa {
  const char *name; // "avx512" "avx2" "base"
  int lanes;        // floats of a vector
  bool (*usable)(void);
  // acc, max, sum += the tile's keys. k_t [dim, LDS], v [TK, LD(dim)].
  void (*forward)(struct cpu_rows *rows, const float *k_t, const float *v,
                  const struct cpu_visible *seen);
  // acc (dQ), dk, dv [TK, LD(dim)] += the tile's keys; dQ and dK still lack the factor `scale`.
  void (*backward)(struct cpu_rows *rows, const float *k_t, const float *v_t, const float *k,
                   const struct cpu_visible *seen, float *dk, float *dv);
  // C [m, n] (+)= A B; A(i, k) = a[i * a_row + k * a_col], B [k, ldb]; m a multiple of 8, n of 32.
  void (*product)(int m, int n, int k, const float *a, int64_t a_row, int64_t a_col, const float *b,
                  int64_t ldb, float *c, int64_t ldc, bool add);
  // dst [dim] = scale * src[at ...] of dtype, and back. The fp32 side is 64-byte aligned.
  void (*load_row)(float *dst, const void *src, enum attn_dtype dtype, int64_t at, int dim,
                   float scale);
  void (*store_row)(void *dst, enum attn_dtype dtype, int64_t at, const float *src, int dim,
                    float scale);
  // dst [dim] += scale * src
  void (*add_row)(float *dst, const float *src, int dim, float scale);
  float (*dot)(const float *a, const float *b, int dim);
  // x [n] = 2^(x - base) for x <= about base; returns the sum. n a multiple of CPU_LANES.
  float (*exp2_row)(float *x, int64_t n, float base);
  // Packs keys [row, row + count) of KV head `kv` of src [rows, heads_kv, dim] as rows, [TK, LD(dim)],
  // or transposed, [dim, LDS]; zeros beyond count.
  void (*pack)(float *dst, const void *src, const struct attn_problem *p, int kv, int32_t row,
               int count, bool transposed);
  // fp32 FMA rate of one thread: runs `rounds` rounds, returns how many FLOP that was.
  double (*peak)(int64_t rounds);
};

extern const struct cpu_isa *const cpu_isas[]; // best first, NULL-terminated
// Widest that this processor runs, or the one that cpu_isa_use chose.
const struct cpu_isa *cpu_isa(void);
// Uses that copy from now on; false when there is none of that name, or it does not run here.
bool cpu_isa_use(const char *name);

// The engine over any representation: attn_kernel functions. `rep` of the kernel names the table.
int cpu_prepare(struct attn_plan *plan);
int cpu_forward(struct attn_plan *plan, const struct attn_args *args);
int cpu_backward(struct attn_plan *plan, const struct attn_args *args);
void cpu_release(struct attn_plan *plan);

#endif
