// naive.c -- attention without fusion, the study's baseline: scores = Q K^T, masked softmax, O = P V,
// three steps with the S x S scores in memory between them, one query head after another, KV heads
// repeated for each (torch's matmul, softmax, matmul). The mask is a dense S x S array of bytes. The
// products are as fast as the engine's, so what it costs is the memory and the invisible pairs.
#include <math.h>
#include <string.h>

#include "naive_plan.h"

static const float LOG2_E = 1.44269504088896341f, LN_2 = 0.693147180559945309f;

static float scale_of(const struct attn_plan *plan, const struct attn_args *a) {
  return a->scale != 0 ? a->scale : 1 / sqrtf((float)plan->problem.dim);
}

// One head of src [rows, heads, dim] as fp32 rows [pad, LD(dim)], or transposed [dim, ld]. Called by
// all threads of a team.
static void repeat_head(float *dst, const void *src, const struct attn_problem *p, int64_t rows,
                        int64_t pad, int heads, int head, int64_t ld) {
#pragma omp for schedule(static)
  for (int64_t i = 0; i < pad; i++) {
    _Alignas(64) float buffer[128];
    float *row = ld ? buffer : dst + i * CPU_LD(p->dim);
    if (i < rows)
      cpu_isa()->load_row(row, src, p->dtype, (i * heads + head) * p->dim, p->dim, 1);
    else
      memset(row, 0, p->dim * sizeof *row);
    for (int j = 0; ld && j < p->dim; j++)
      dst[j * ld + i] = row[j];
  }
}

// C [m, n] = A B in square tiles, A(i, k) = a[i * a_row + k * a_col]. Called by all threads of a team.
static void product(int64_t m, int64_t n, int64_t k, const float *a, int64_t a_row, int64_t a_col,
                    const float *b, int64_t ldb, float *c, int64_t ldc, bool add) {
  const struct cpu_isa *isa = cpu_isa();
#pragma omp for schedule(dynamic, 1)
  for (int64_t i = 0; i < m; i += NAIVE_TILE)
    for (int64_t j = 0; j < n; j += NAIVE_TILE)
      for (int64_t l = 0; l < k; l += NAIVE_TILE) {
        const int cols = n - j < NAIVE_TILE ? (int)(n - j) : NAIVE_TILE,
                  depth = k - l < NAIVE_TILE ? (int)(k - l) : NAIVE_TILE;
        isa->product(NAIVE_TILE, cols, depth, a + i * a_row + l * a_col, a_row, a_col,
                     b + l * ldb + j, ldb, c + i * ldc + j, ldc, add || l > 0);
      }
}

// Masked softmax of one row of scores s [pad]; scale is in powers of two. Returns the LSE, base e.
static float softmax(float *s, const uint8_t *seen, int64_t n, int64_t pad, float scale) {
  float max = -INFINITY;
#pragma omp simd reduction(max : max)
  for (int64_t k = 0; k < n; k++) {
    s[k] = seen[k] ? s[k] * scale : -INFINITY;
    max = s[k] > max ? s[k] : max;
  }
  for (int64_t k = n; k < pad; k++)
    s[k] = -INFINITY;
  const float base = max == -INFINITY ? 0 : max, sum = cpu_isa()->exp2_row(s, pad, base);
  const float inverse = sum == 0 ? 0 : 1 / sum;
#pragma omp simd
  for (int64_t k = 0; k < pad; k++)
    s[k] *= inverse;
  return sum == 0 ? -INFINITY : (base + log2f(sum)) * LN_2;
}

// Weights of the old and the new result of two disjoint sets of keys; returns their common LSE.
static float merge_lse(float before, float now, float *w_before, float *w_now) {
  const float top = before > now ? before : now;
  if (top == -INFINITY) {
    *w_before = *w_now = 0;
    return top;
  }
  const float lse = top + logf(expf(before - top) + expf(now - top));
  *w_before = expf(before - lse);
  *w_now = expf(now - lse);
  return lse;
}

static void finish_row(const struct attn_plan *plan, const struct attn_args *a, int head,
                       int64_t row, float now, float *o) {
  const struct attn_problem *p = &plan->problem;
  const int64_t at = (row * p->heads_q + head) * p->dim;
  float *lse = a->lse + (int64_t)head * p->rows_q + row;
  if (a->o_acc && a->resume) {
    float w_before, w_now;
    *lse = merge_lse(*lse, now, &w_before, &w_now);
    for (int j = 0; j < p->dim; j++)
      o[j] = (w_before > 0 ? w_before * a->o_acc[at + j] : 0) + w_now * o[j];
  } else {
    *lse = now;
  }
  if (attn_writes_o(a))
    cpu_isa()->store_row(a->o, p->dtype, at, o, p->dim, 1);
  else
    memcpy(a->o_acc + at, o, p->dim * sizeof *o);
}

static const uint8_t *mask_row(const struct attn_plan *plan, int kv, int64_t row) {
  const struct naive_state *st = plan->state;
  const struct attn_problem *p = &plan->problem;
  const int64_t pattern = st->patterns > 1 ? kv : 0;
  return st->common->visible + (pattern * p->rows_q + row) * p->rows_k;
}

static int naive_forward(struct attn_plan *plan, const struct attn_args *a) {
  const struct attn_problem *p = &plan->problem;
  const struct naive_state *st = plan->state;
  const int ld = CPU_LD(p->dim), group = p->heads_q / p->heads_kv;
  const float scale = scale_of(plan, a) * LOG2_E;
  naive_begin(plan);
#pragma omp parallel num_threads(st->threads)
  for (int h = 0; h < p->heads_q; h++) {
    const int kv = h / group;
    repeat_head(st->q, a->q, p, p->rows_q, st->pad_q, p->heads_q, h, 0);
    repeat_head(st->k_t, a->k, p, p->rows_k, st->pad_k, p->heads_kv, kv, st->ld);
    repeat_head(st->v, a->v, p, p->rows_k, st->pad_k, p->heads_kv, kv, 0);
    product(st->pad_q, st->pad_k, p->dim, st->q, ld, 1, st->k_t, st->ld, st->p, st->ld, false);
    float *lse = st->q; // Q is read no more: its first column of each row keeps the row's LSE
#pragma omp for schedule(static)
    for (int64_t q = 0; q < p->rows_q; q++)
      lse[q * ld] = softmax(st->p + q * st->ld, mask_row(plan, kv, q), p->rows_k, st->pad_k, scale);
    product(st->pad_q, p->dim, st->pad_k, st->p, st->ld, 1, st->v, ld, st->out, ld, false);
#pragma omp for schedule(static)
    for (int64_t q = 0; q < p->rows_q; q++)
      finish_row(plan, a, h, q, lse[q * ld], st->out + q * ld);
  }
  return 0;
}

// P = e^(S scale - LSE) and dS = P (dP - dO . O) of one row, in place; scale is in powers of two.
static void gradient_row(const struct attn_plan *plan, const struct attn_args *a, int kv, int head,
                         int64_t q, float scale) {
  const struct attn_problem *p = &plan->problem;
  const struct naive_state *st = plan->state;
  const uint8_t *seen = mask_row(plan, kv, q);
  const float lse = a->lse[(int64_t)head * p->rows_q + q];
  const float *d_o = st->d_o + q * CPU_LD(p->dim);
  _Alignas(64) float o[128];
  float *s = st->p + q * st->ld, *ds = st->ds + q * st->ld, delta = 0;
  cpu_isa()->load_row(o, a->o, p->dtype, (q * p->heads_q + head) * p->dim, p->dim, 1);
  for (int j = 0; j < p->dim; j++)
    delta += o[j] * d_o[j];
  const float base = lse == -INFINITY ? 0 : lse * LOG2_E; // such a row sees nothing
#pragma omp simd
  for (int64_t k = 0; k < p->rows_k; k++)
    s[k] = seen[k] ? s[k] * scale : -INFINITY;
  for (int64_t k = p->rows_k; k < st->pad_k; k++)
    s[k] = -INFINITY;
  cpu_isa()->exp2_row(s, st->pad_k, base);
#pragma omp simd
  for (int64_t k = 0; k < p->rows_k; k++)
    ds[k] = seen[k] ? s[k] * (ds[k] - delta) : 0;
  memset(ds + p->rows_k, 0, (size_t)(st->pad_k - p->rows_k) * sizeof *ds);
}

static void put_gradient(const struct attn_plan *plan, const struct attn_args *a, void *dst,
                         float *acc, int64_t at, const float *row, float scale) {
  const struct attn_problem *p = &plan->problem;
  if (a->accumulate)
    cpu_isa()->add_row(acc + at, row, p->dim, scale);
  else
    cpu_isa()->store_row(dst, p->dtype, at, row, p->dim, scale);
}

static int naive_backward(struct attn_plan *plan, const struct attn_args *a) {
  const struct attn_problem *p = &plan->problem;
  const struct naive_state *st = plan->state;
  const int ld = CPU_LD(p->dim), group = p->heads_q / p->heads_kv;
  const float scale = scale_of(plan, a);
  if (!p->backward) {
    attn_error_set(false, "the plan was prepared without backward");
    return -1;
  }
  naive_begin(plan);
#pragma omp parallel num_threads(st->threads)
  for (int h = 0; h < p->heads_q; h++) {
    const int kv = h / group;
    repeat_head(st->q, a->q, p, p->rows_q, st->pad_q, p->heads_q, h, 0);
    repeat_head(st->d_o, a->d_o, p, p->rows_q, st->pad_q, p->heads_q, h, 0);
    repeat_head(st->k_t, a->k, p, p->rows_k, st->pad_k, p->heads_kv, kv, st->ld);
    repeat_head(st->v_t, a->v, p, p->rows_k, st->pad_k, p->heads_kv, kv, st->ld);
    repeat_head(st->k, a->k, p, p->rows_k, st->pad_k, p->heads_kv, kv, 0);
    product(st->pad_q, st->pad_k, p->dim, st->q, ld, 1, st->k_t, st->ld, st->p, st->ld, false);
    product(st->pad_q, st->pad_k, p->dim, st->d_o, ld, 1, st->v_t, st->ld, st->ds, st->ld, false);
#pragma omp for schedule(static)
    for (int64_t q = 0; q < p->rows_q; q++)
      gradient_row(plan, a, kv, h, q, scale * LOG2_E);
    // Rows beyond rows_q hold no probabilities: the sums over queries stop before them.
    const bool add = h % group != 0;
    product(st->pad_k, p->dim, p->rows_q, st->p, 1, st->ld, st->d_o, ld, st->dv, ld, add);
    product(st->pad_k, p->dim, p->rows_q, st->ds, 1, st->ld, st->q, ld, st->dk, ld, add);
    product(st->pad_q, p->dim, st->pad_k, st->ds, st->ld, 1, st->k, ld, st->out, ld, false);
#pragma omp for schedule(static)
    for (int64_t q = 0; q < p->rows_q; q++)
      put_gradient(plan, a, a->dq, a->dq_acc, (q * p->heads_q + h) * p->dim, st->out + q * ld,
                   scale);
    if ((h + 1) % group == 0) {
#pragma omp for schedule(static)
      for (int64_t k = 0; k < p->rows_k; k++) {
        const int64_t at = (k * p->heads_kv + kv) * p->dim;
        put_gradient(plan, a, a->dk, a->dk_acc, at, st->dk + k * ld, scale);
        put_gradient(plan, a, a->dv, a->dv_acc, at, st->dv + k * ld, 1);
      }
    }
  }
  return 0;
}

static const char *naive_supports(const struct attn_kernel *kernel, const struct attn_problem *p) {
  return p->owner_rows ? "naive has queries and outputs in one place alone" : NULL;
}

extern const struct attn_kernel attn_naive_cpu;
const struct attn_kernel attn_naive_cpu = {
    .name = "naive",
    .rep = "none",
    .engine = "cpu",
    .summary = "scores in memory, no fusion, on the CPU",
    .place = ATTN_HOST,
    .supports = naive_supports,
    .prepare = naive_prepare,
    .forward = naive_forward,
    .backward = naive_backward,
    .release = naive_release,
};
