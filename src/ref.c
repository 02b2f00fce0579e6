// ref.c -- see ref.h.
//   s = scale q.k, P = exp(s - lse), O = P V; with D = dO.O, dS = P (dO.V - D):
//   dQ = scale dS K, dK = scale dS^T Q, dV = P^T dO (GQA: summed over the group's query heads)
#include "ref.h"

#include <math.h>
#include <stdlib.h>

#include "tensor.h"

static double scale_of(const struct attn_problem *p, const struct attn_args *a) {
  return a->scale != 0 ? (double)a->scale : 1 / sqrt(p->dim);
}

// Mask position of each local row; NULL when memory runs out.
static int32_t *positions(const struct attn_segment *seg, int32_t segs, int32_t rows) {
  int32_t *pos = malloc(sizeof *pos * (size_t)(rows ? rows : 1));
  for (int32_t r = 0; pos && r < rows; r++)
    pos[r] = seg ? -1 : r; // -1: padding, in no segment
  for (int32_t s = 0; pos && seg && s < segs; s++)
    for (int32_t i = 0; i < seg[s].len; i++)
      pos[seg[s].row + i] = seg[s].pos + i;
  return pos;
}

// One loop a type: the checks at 48K tokens convert a gigabyte of rows a point, and only these vectorise.
static void from_bf16(const uint16_t *x, int32_t n, double *out) {
#pragma omp simd
  for (int32_t i = 0; i < n; i++)
    out[i] = bf16_to_float(x[i]);
}

static void from_fp32(const float *x, int32_t n, double *out) {
#pragma omp simd
  for (int32_t i = 0; i < n; i++)
    out[i] = x[i];
}

// Row `row` of a head of x [rows, heads, dim] as double [dim].
static void row_of(const void *x, const struct attn_problem *p, int32_t row, int32_t heads,
                   int32_t head, double *out) {
  const int64_t at = ((int64_t)row * heads + head) * p->dim;
  if (p->dtype == ATTN_BF16)
    from_bf16((const uint16_t *)x + at, p->dim, out);
  else
    from_fp32((const float *)x + at, p->dim, out);
}

// Rows of one head as double [rows, dim].
static double *head_rows(const void *x, const struct attn_problem *p, int32_t rows, int32_t heads,
                         int32_t head) {
  double *out = malloc(sizeof *out * (size_t)(rows ? rows : 1) * p->dim);
  for (int32_t r = 0; out && r < rows; r++)
    row_of(x, p, r, heads, head, out + (int64_t)r * p->dim);
  return out;
}

static double dot(const double *x, const double *y, int32_t n) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int32_t i = 0; i < n; i++)
    sum += x[i] * y[i];
  return sum;
}

static void add_scaled(double *y, double c, const double *x, int32_t n) {
#pragma omp simd
  for (int32_t i = 0; i < n; i++)
    y[i] += c * x[i];
}

// Standard deviation of the error of D = dO.O when O is rounded to bf16: at most 2^-9 relative, uniform.
static double delta_noise(const double *d_o, const double *o, int32_t n) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int32_t i = 0; i < n; i++)
    sum += d_o[i] * o[i] * (d_o[i] * o[i]);
  return 0x1p-9 / sqrt(3) * sqrt(sum);
}

// One query row against one KV head given as doubles. prob [rows_k] is scratch and holds P after.
static void forward_row(const struct attn_problem *p, int32_t kv_head, int32_t pos,
                        const int32_t *pos_k, const double *q, const double *k, const double *v,
                        double scale, double *prob, double *o, double *lse) {
  double max = -INFINITY, sum = 0;
  for (int32_t j = 0; j < p->rows_k; j++) {
    const bool seen = pos >= 0 && pos_k[j] >= 0 && mask_allows(p->mask, kv_head, pos, pos_k[j]);
    prob[j] = seen ? scale * dot(q, k + (int64_t)j * p->dim, p->dim) : -INFINITY;
    max = fmax(max, prob[j]);
  }
  memset(o, 0, sizeof *o * p->dim);
  *lse = -INFINITY;
  for (int32_t j = 0; j < p->rows_k; j++)
    sum += prob[j] = prob[j] == -INFINITY ? 0 : exp(prob[j] - max);
  if (sum == 0)
    return;
  *lse = max + log(sum);
  for (int32_t j = 0; j < p->rows_k; j++)
    if ((prob[j] /= sum) != 0)
      add_scaled(o, prob[j], v + (int64_t)j * p->dim, p->dim);
}

// Forward of one query head; with dq, dk, dv not NULL backward too (added to dk, dv of that head), with
// the noise unless NULL (noise_k [rows_k]: variances, added).
static int run_head(const struct attn_problem *p, const struct attn_args *a, int32_t head,
                    double *o_out, double *lse_out, double *dq, double *dk, double *dv,
                    double *noise_q, double *noise_k) {
  const int32_t kv_head = head / (p->heads_q / p->heads_kv), dim = p->dim;
  const double scale = scale_of(p, a);
  int32_t *pos_q = positions(p->q_seg, p->q_segs, p->rows_q);
  int32_t *pos_k = positions(p->k_seg, p->k_segs, p->rows_k);
  double *q = head_rows(a->q, p, p->rows_q, p->heads_q, head);
  double *k = head_rows(a->k, p, p->rows_k, p->heads_kv, kv_head);
  double *v = head_rows(a->v, p, p->rows_k, p->heads_kv, kv_head);
  double *d_o = dq ? head_rows(a->d_o, p, p->rows_q, p->heads_q, head) : NULL;
  double *prob = malloc(sizeof *prob * (size_t)(p->rows_k ? p->rows_k : 1)), o[256], lse,
         mean_k[256];
  const int status = pos_q && pos_k && q && k && v && prob && (!dq || d_o) ? 0 : -1;
  for (int32_t r = 0; status == 0 && r < p->rows_q; r++) {
    const double *q_row = q + (int64_t)r * dim;
    forward_row(p, kv_head, pos_q[r], pos_k, q_row, k, v, scale, prob, o, &lse);
    if (o_out)
      memcpy(o_out + ((int64_t)r * p->heads_q + head) * dim, o, sizeof *o * dim);
    if (lse_out)
      lse_out[(int64_t)head * p->rows_q + r] = lse;
    if (!dq)
      continue;
    const double *d_o_row = d_o + (int64_t)r * dim, delta = dot(d_o_row, o, dim);
    double *dq_row = dq + ((int64_t)r * p->heads_q + head) * dim;
    const double sigma = noise_q ? scale * delta_noise(d_o_row, o, dim) : 0;
    const double q_norm2 = noise_q ? dot(q_row, q_row, dim) : 0;
    memset(dq_row, 0, sizeof *dq_row * dim);
    memset(mean_k, 0, sizeof mean_k);
    for (int32_t j = 0; j < p->rows_k; j++) {
      if (prob[j] == 0)
        continue;
      const int64_t at = (int64_t)j * dim;
      if (noise_q) {
        add_scaled(mean_k, prob[j], k + at, dim);
        noise_k[j] += sigma * sigma * prob[j] * prob[j] * q_norm2;
      }
      const double ds = prob[j] * (dot(d_o_row, v + at, dim) - delta) * scale;
      add_scaled(dq_row, ds, k + at, dim);
      add_scaled(dk + at, ds, q_row, dim);
      add_scaled(dv + at, prob[j], d_o_row, dim);
    }
    if (noise_q)
      noise_q[(int64_t)r * p->heads_q + head] = sigma * sqrt(dot(mean_k, mean_k, dim));
  }
  free(pos_q), free(pos_k), free(q), free(k), free(v), free(d_o), free(prob);
  return status;
}

int ref_forward(const struct attn_problem *p, const struct attn_args *a, double *o, double *lse) {
  int failed = 0;
#pragma omp parallel for schedule(dynamic) reduction(| : failed)
  for (int32_t h = 0; h < p->heads_q; h++)
    failed |= run_head(p, a, h, o, lse, NULL, NULL, NULL, NULL, NULL) != 0;
  return failed ? -1 : 0;
}

int ref_backward(const struct attn_problem *p, const struct attn_args *a, double *dq, double *dk,
                 double *dv) {
  return ref_backward_noise(p, a, dq, dk, dv, NULL, NULL);
}

int ref_backward_noise(const struct attn_problem *p, const struct attn_args *a, double *dq,
                       double *dk, double *dv, double *noise_q, double *noise_k) {
  const int64_t head_size = (int64_t)p->rows_k * p->dim, row_stride = (int64_t)p->heads_kv * p->dim;
  int failed = 0;
  memset(dk, 0, sizeof *dk * (size_t)(head_size * p->heads_kv));
  memset(dv, 0, sizeof *dv * (size_t)(head_size * p->heads_kv));
  for (int64_t i = 0; noise_k && i < (int64_t)p->rows_k * p->heads_kv; i++)
    noise_k[i] = 0;
#pragma omp parallel for schedule(dynamic) reduction(| : failed)
  for (int32_t h = 0; h < p->heads_q; h++) {
    double *part = calloc((size_t)(2 * head_size + p->rows_k + 1), sizeof *part); // dk, dv, noise
    failed |= !part || run_head(p, a, h, NULL, NULL, dq, part, part + head_size, noise_q,
                                part + 2 * head_size) != 0;
    const int64_t kv_head = h / (p->heads_q / p->heads_kv);
#pragma omp critical
    for (int64_t j = 0; part && j < p->rows_k; j++) {
      add_scaled(dk + j * row_stride + kv_head * p->dim, 1, part + j * p->dim, p->dim);
      add_scaled(dv + j * row_stride + kv_head * p->dim, 1, part + head_size + j * p->dim, p->dim);
      if (noise_k)
        noise_k[j * p->heads_kv + kv_head] += part[2 * head_size + j];
    }
    free(part);
  }
  for (int64_t i = 0; noise_k && i < (int64_t)p->rows_k * p->heads_kv; i++)
    noise_k[i] = sqrt(noise_k[i]);
  return failed ? -1 : 0;
}

int ref_query_row(const struct attn_problem *p, const struct attn_args *a, int32_t head,
                  int32_t row, double *o, double *lse, double *dq, double *noise) {
  const int32_t kv_head = head / (p->heads_q / p->heads_kv), dim = p->dim;
  int32_t *pos_q = positions(p->q_seg, p->q_segs, p->rows_q);
  int32_t *pos_k = positions(p->k_seg, p->k_segs, p->rows_k);
  double *k = head_rows(a->k, p, p->rows_k, p->heads_kv, kv_head);
  double *v = head_rows(a->v, p, p->rows_k, p->heads_kv, kv_head);
  double *prob = malloc(sizeof *prob * (size_t)(p->rows_k ? p->rows_k : 1)), q[256], d_o[256];
  const int status = pos_q && pos_k && k && v && prob ? 0 : -1;
  if (status == 0) {
    row_of(a->q, p, row, p->heads_q, head, q);
    forward_row(p, kv_head, pos_q[row], pos_k, q, k, v, scale_of(p, a), prob, o, lse);
  }
  if (status == 0 && dq) {
    row_of(a->d_o, p, row, p->heads_q, head, d_o);
    const double delta = dot(d_o, o, dim);
    double mean_k[256] = {0};
    memset(dq, 0, sizeof *dq * dim);
    for (int32_t j = 0; j < p->rows_k; j++)
      if (prob[j] != 0) {
        const double dp = dot(d_o, v + (int64_t)j * dim, dim);
        add_scaled(dq, scale_of(p, a) * prob[j] * (dp - delta), k + (int64_t)j * dim, dim);
        add_scaled(mean_k, prob[j], k + (int64_t)j * dim, dim);
      }
    *noise = scale_of(p, a) * delta_noise(d_o, o, dim) * sqrt(dot(mean_k, mean_k, dim));
  }
  free(pos_q), free(pos_k), free(k), free(v), free(prob);
  return status;
}

int ref_key_row(const struct attn_problem *p, const struct attn_args *a, int32_t head, int32_t row,
                double *dk, double *dv, double *noise) {
  const int32_t group = p->heads_q / p->heads_kv, dim = p->dim;
  int32_t *pos_q = positions(p->q_seg, p->q_segs, p->rows_q);
  int32_t *pos_k = positions(p->k_seg, p->k_segs, p->rows_k);
  double k[256], v[256], q[256], o[256], d_o[256];
  memset(dk, 0, sizeof *dk * dim);
  memset(dv, 0, sizeof *dv * dim);
  double variance = 0;
  const int status = pos_q && pos_k ? 0 : -1;
  if (status == 0) {
    row_of(a->k, p, row, p->heads_kv, head, k);
    row_of(a->v, p, row, p->heads_kv, head, v);
  }
  for (int32_t r = 0; status == 0 && r < p->rows_q; r++) {
    if (pos_q[r] < 0 || pos_k[row] < 0 || !mask_allows(p->mask, head, pos_q[r], pos_k[row]))
      continue;
    for (int32_t h = head * group; h < (head + 1) * group; h++) { // a group's rows lie together
      row_of(a->q, p, r, p->heads_q, h, q);
      row_of(a->o, p, r, p->heads_q, h, o);
      row_of(a->d_o, p, r, p->heads_q, h, d_o);
      const double prob = exp(scale_of(p, a) * dot(q, k, dim) - a->lse[(int64_t)h * p->rows_q + r]);
      add_scaled(dk, scale_of(p, a) * prob * (dot(d_o, v, dim) - dot(d_o, o, dim)), q, dim);
      add_scaled(dv, prob, d_o, dim);
      const double sigma = scale_of(p, a) * prob * delta_noise(d_o, o, dim);
      variance += sigma * sigma * dot(q, q, dim);
    }
  }
  *noise = sqrt(variance);
  free(pos_q), free(pos_k);
  return status;
}
