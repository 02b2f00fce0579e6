// ref.h -- attention forward and backward in double, straight from mask_allows(): the reference that
// every kernel is compared with. Slow and plain on purpose. Reads q, k, v, d_o, scale of attn_args and
// the segments of attn_problem; host memory.
#ifndef LONGCA_REF_H
#define LONGCA_REF_H

#include "../kernels/attn.h"

// o [rows_q, heads_q, dim], lse [heads_q, rows_q]. 0, or -1 when memory runs out.
int ref_forward(const struct attn_problem *p, const struct attn_args *a, double *o, double *lse);

// dq [rows_q, heads_q, dim], dk and dv [rows_k, heads_kv, dim]. Runs its own forward.
int ref_backward(const struct attn_problem *p, const struct attn_args *a, double *dq, double *dk,
                 double *dv);
// As ref_backward; also what rounding O to bf16 does to each row of dQ and dK by way of D = dO.O, as the
// standard deviation of that error's norm: noise_q [rows_q, heads_q], noise_k [rows_k, heads_kv]. Every
// kernel that reads O back has it, and a row that depends on few keys shows it undiluted.
int ref_backward_noise(const struct attn_problem *p, const struct attn_args *a, double *dq,
                       double *dk, double *dv, double *noise_q, double *noise_k);

// One row of the above, for lengths at which the whole is too slow: row `row` of query head `head`.
// o [dim] and lse [1]; dq [dim] and its noise [1], unless dq is NULL.
int ref_query_row(const struct attn_problem *p, const struct attn_args *a, int32_t head,
                  int32_t row, double *o, double *lse, double *dq, double *noise);
// Row `row` of KV head `head`: dk [dim], dv [dim], noise [1] of dk. The probabilities and dO.O of the other
// rows come from a->lse and a->o, which the caller has checked before.
int ref_key_row(const struct attn_problem *p, const struct attn_args *a, int32_t head, int32_t row,
                double *dk, double *dv, double *noise);

#endif
