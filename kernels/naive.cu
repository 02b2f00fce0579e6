// naive.cu -- attention as the formula says it (study 4, "naive torch"): S = Q K^T with all scores
// in memory, a masked softmax over them, O = P V. Three cuBLAS products and one pass between
// (naive_rows.cuh), KV heads repeated to the number of query heads. Memory O(heads * S^2) is the point of
// the baseline; plans that never run at once share it (attn_problem.like), but for the mask's bytes, which
// are those of a plan's own rows.
#include <cublas_v2.h>

#include <mutex>

#include "naive_rows.cuh"

using namespace naive;

namespace {

struct state {
  gpu_memory own, scratch;
  uint8_t *visible;         // own [patterns, rows_q, ld]; NULL: FULL
  float *scores, *d_scores; // [heads_q, rows_q, ld]
  float *dk, *dv;           // [rows_k, heads_q, dim], before the sum over a group
  bf16 *k, *v;              // [rows_k, heads_q, dim] repeated heads; NULL: MHA
  int64_t ld;               // rows_k rounded up, for 16-byte rows
  int32_t patterns;         // of the mask: one, or one a KV head
};

// One a process, whose threads take turns (ranks of loopback_gpu are threads): its stream is a setting.
cublasHandle_t blas;
std::mutex blas_turn;

std::unique_lock<std::mutex> blas_on(cudaStream_t stream) {
  std::unique_lock<std::mutex> turn(blas_turn);
  cublasSetStream(blas, stream);
  return turn;
}

const char *naive_supports(const struct attn_kernel *kernel, const struct attn_problem *p) {
  if (p->dtype != ATTN_BF16)
    return "device kernels take bf16";
  if (p->owner_rows)
    return "naive has queries and outputs on this GPU alone";
  return p->merges ? "naive neither continues from a partial result nor adds to given gradients" : NULL;
}

int allocate_scratch(struct attn_plan *plan, state *s) {
  const struct attn_problem *p = &plan->problem;
  const int64_t squares = (int64_t)p->heads_q * p->rows_q * s->ld;
  const int64_t keys = (int64_t)p->rows_k * p->heads_q * p->dim;
  const int64_t gradients = p->backward ? 1 : 0, repeated = p->heads_q != p->heads_kv ? 1 : 0;
  int64_t *work = &plan->workspace_bytes;
  return s->scratch.get(&s->scores, squares, work) ||
                 s->scratch.get(&s->d_scores, gradients * squares, work) ||
                 s->scratch.get(&s->dk, gradients * keys, work) ||
                 s->scratch.get(&s->dv, gradients * keys, work) ||
                 s->scratch.get(&s->k, repeated * keys, work) ||
                 s->scratch.get(&s->v, repeated * keys, work)
             ? -1
             : 0;
}

int allocate_visible(struct attn_plan *plan, state *s) {
  const struct attn_problem *p = &plan->problem;
  gpu_memory building; // needed until the mask is written
  int64_t passing = 0;
  struct mask mask;
  int32_t *pos_q, *pos_k;
  const std::vector<int32_t> at_q = gpu_positions(p->q_seg, p->q_segs, p->rows_q),
                             at_k = gpu_positions(p->k_seg, p->k_segs, p->rows_k);
  if (s->own.get(&s->visible, (int64_t)s->patterns * p->rows_q * s->ld, &plan->prep_bytes) ||
      building.mask(&mask, p->mask, &passing) ||
      building.copy(&pos_q, at_q.data(), p->rows_q, &passing) ||
      building.copy(&pos_k, at_k.data(), p->rows_k, &passing))
    return -1;
  build_visible<<<dim3(p->rows_q, s->patterns), 256>>>(mask, pos_q, pos_k, p->rows_k, s->ld,
                                                       s->visible);
  GPU_LAUNCHED("building the boolean mask");
  GPU_TRY(cudaDeviceSynchronize());
  return 0;
}

int blas_check(cublasStatus_t status, const char *what) {
  if (status == CUBLAS_STATUS_SUCCESS)
    return 0;
  attn_error_set(status == CUBLAS_STATUS_ALLOC_FAILED, "cuBLAS, %s: %s", what, cublasGetStatusString(status));
  return -1;
}

int start_blas() {
  const std::lock_guard<std::mutex> turn(blas_turn);
  return blas ? 0 : blas_check(cublasCreate(&blas), "starting");
}

int naive_prepare(struct attn_plan *plan) {
  const struct attn_problem *p = &plan->problem;
  state *s = new state();
  plan->state = s;
  if (start_blas())
    return -1;
  s->ld = ((int64_t)p->rows_k + 7) / 8 * 8;
  s->patterns = p->mask->heads ? p->mask->heads : 1;
  if (const state *like = gpu_like<state>(plan))
    s->scratch.like = &like->scratch;
  if (allocate_scratch(plan, s))
    return -1;
  return p->mask->kind == MASK_FULL && !p->q_seg && !p->k_seg ? 0 : allocate_visible(plan, s);
}

// ---- products

// One matrix a head, column-major as BLAS has it: columns `ld` apart, heads `stride`.
struct matrices {
  const void *at;
  int64_t ld, stride;
};

// x [rows, heads_q, dim]: dim x rows.
matrices heads_of(const attn_problem *p, const void *x) {
  return {x, (int64_t)p->heads_q * p->dim, p->dim};
}

// The bf16 rows in the place of the fp32 `scores`: keys x queries.
matrices rows_in(const attn_problem *p, const state *s, const float *scores) {
  return {scores, 2 * s->ld, 2 * p->rows_q * s->ld};
}

// c [m, n] = op(a) op(b), a sum over k; a and b bf16, fp32 accumulation.
int product(int heads, cublasOperation_t op_a, cublasOperation_t op_b, int m, int n, int k,
            matrices a, matrices b, matrices c, cudaDataType type_c) {
  const float one = 1, zero = 0;
  char what[64];
  snprintf(what, sizeof what, "product %d x %d x %d", m, n, k);
  return blas_check(cublasGemmStridedBatchedEx(blas, op_a, op_b, m, n, k, &one, a.at, CUDA_R_16BF, (int)a.ld,
                                               a.stride, b.at, CUDA_R_16BF, (int)b.ld, b.stride, &zero,
                                               const_cast<void *>(c.at), type_c, (int)c.ld, c.stride, heads,
                                               CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
                    what);
}

// Scores [head, query, key] = X Y^T for x [rows_q, heads_q, dim], y [rows_k, heads_q, dim].
int scores_of(const attn_problem *p, const state *s, const bf16 *x, const bf16 *y, float *scores) {
  return product(p->heads_q, CUBLAS_OP_T, CUBLAS_OP_N, p->rows_k, p->rows_q, p->dim, heads_of(p, y),
                 heads_of(p, x), {scores, s->ld, p->rows_q * s->ld}, CUDA_R_32F);
}

// out [rows_q, heads_q, dim] bf16 = P Y, where P are the bf16 rows in the place of `scores`.
int rows_times(const attn_problem *p, const state *s, const float *scores, const bf16 *y,
               void *out) {
  return product(p->heads_q, CUBLAS_OP_N, CUBLAS_OP_N, p->dim, p->rows_q, p->rows_k, heads_of(p, y),
                 rows_in(p, s, scores), heads_of(p, out), CUDA_R_16BF);
}

// out [rows_k, heads_q, dim] fp32 = P^T X.
int columns_times(const attn_problem *p, const state *s, const float *scores, const bf16 *x,
                  float *out) {
  return product(p->heads_q, CUBLAS_OP_N, CUBLAS_OP_T, p->dim, p->rows_k, p->rows_q, heads_of(p, x),
                 rows_in(p, s, scores), heads_of(p, out), CUDA_R_32F);
}

// ---- passes

// x [rows_k, heads_kv, dim] with heads repeated to heads_q, in `to`; itself where they are as many.
const bf16 *repeated(const attn_problem *p, const void *x, bf16 *to, cudaStream_t stream) {
  if (p->heads_q == p->heads_kv)
    return (const bf16 *)x;
  repeat_heads<<<p->rows_k, 256, 0, stream>>>((const uint4 *)x, (uint4 *)to, p->heads_kv,
                                              p->heads_q / p->heads_kv, p->dim / 8);
  return to;
}

float scale_of(const struct attn_plan *plan, const struct attn_args *a) {
  return a->scale != 0 ? a->scale : 1 / sqrtf((float)plan->problem.dim);
}

int naive_forward(struct attn_plan *plan, const struct attn_args *a) {
  const struct attn_problem *p = &plan->problem;
  const state *s = (state *)plan->state;
  if (a->o_acc) {
    attn_error_set(false, "naive does not continue from a partial result");
    return -1;
  }
  const cudaStream_t stream = (cudaStream_t)a->stream;
  const auto turn = blas_on(stream);
  const bf16 *k = repeated(p, a->k, s->k, stream), *v = repeated(p, a->v, s->v, stream);
  GPU_LAUNCHED("repeating KV heads");
  if (scores_of(p, s, (const bf16 *)a->q, k, s->scores))
    return -1;
  const auto softmax = p->rows_k <= 4 * THREADS * 4 ? softmax_rows<4> : softmax_rows<8>;
  const int rows = p->rows_q * p->heads_q;
  softmax<<<(rows + ROWS - 1) / ROWS, THREADS, 0, stream>>>(
      s->scores, s->visible, a->lse, scale_of(plan, a) * 1.4426950408889634f, p->rows_k, s->ld, p->rows_q, rows,
      p->heads_q / s->patterns);
  GPU_LAUNCHED("softmax");
  return rows_times(p, s, s->scores, v, a->o);
}

int naive_backward(struct attn_plan *plan, const struct attn_args *a) {
  const struct attn_problem *p = &plan->problem;
  const state *s = (state *)plan->state;
  if (a->accumulate) {
    attn_error_set(false, "naive does not add to given gradients");
    return -1;
  }
  const cudaStream_t stream = (cudaStream_t)a->stream;
  const auto turn = blas_on(stream);
  const bf16 *k = repeated(p, a->k, s->k, stream), *v = repeated(p, a->v, s->v, stream);
  const bf16 *q = (const bf16 *)a->q, *d_o = (const bf16 *)a->d_o;
  GPU_LAUNCHED("repeating KV heads");
  if (scores_of(p, s, q, k, s->scores) || scores_of(p, s, d_o, v, s->d_scores))
    return -1;
  backward_rows<<<dim3(p->rows_q, p->heads_q), THREADS, 0, stream>>>(
      s->scores, s->d_scores, s->visible, a->lse, (const bf16 *)a->o, d_o, scale_of(plan, a),
      p->rows_k, s->ld, p->heads_q / s->patterns, p->dim);
  GPU_LAUNCHED("backward of softmax");
  if (columns_times(p, s, s->scores, d_o, s->dv) || columns_times(p, s, s->d_scores, q, s->dk))
    return -1;
  const int group = p->heads_q / p->heads_kv;
  sum_heads<<<p->rows_k, 256, 0, stream>>>(s->dk, (bf16 *)a->dk, p->heads_kv, group, p->dim);
  sum_heads<<<p->rows_k, 256, 0, stream>>>(s->dv, (bf16 *)a->dv, p->heads_kv, group, p->dim);
  GPU_LAUNCHED("summing KV heads");
  return rows_times(p, s, s->d_scores, k, a->dq);
}

void naive_release(struct attn_plan *plan) { delete (state *)plan->state; }

} // namespace

extern "C" const struct attn_kernel attn_naive;
const struct attn_kernel attn_naive = {
    "naive",        "none",
    "cublas",       "scores in memory: GEMM, masked softmax, GEMM",
    ATTN_DEVICE,    80,
    naive_supports, naive_prepare,
    naive_forward,  naive_backward,
    naive_release,
};
