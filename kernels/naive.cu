// naive.cu -- attention as the formula says it (study 4, "naive torch"): S = Q K^T with all scores
// in memory, a masked softmax over them, O = P V. Three cuBLAS products and one pass between, KV
// heads repeated to the number of query heads. Memory O(heads * S^2) is the point of the baseline.
//
// A row of fp32 scores is overwritten by its bf16 probabilities in the first half of the same row,
// so that forward needs one score matrix and backward two (P over S, dS over dP).
#include <cublas_v2.h>
#include <math.h>

#include "gpu.cuh"

namespace {

constexpr int THREADS = 512;

struct naive {
  gpu_memory memory;
  uint8_t *visible;         // [max(1, mask heads), rows_q, ld]; NULL: FULL
  bf16 *k, *v;              // [rows_k, heads_q, dim] repeated heads; NULL: MHA
  float *scores, *d_scores; // [heads_q, rows_q, ld]
  float *dk, *dv;           // [rows_k, heads_q, dim], before the sum over a group
  int64_t ld;               // rows_k rounded up, for 16-byte rows
  int32_t masks;
};

cublasHandle_t blas; // one a process

// ---- device code

__global__ void build_visible(struct mask mask, const int32_t *pos_q, const int32_t *pos_k,
                              int rows_k, int64_t ld, uint8_t *visible) {
  const int q = blockIdx.x, head = blockIdx.y;
  uint8_t *row = visible + ((int64_t)head * gridDim.x + q) * ld;
  for (int k = threadIdx.x; k < ld; k += blockDim.x)
    row[k] = k < rows_k && pos_q[q] >= 0 && pos_k[k] >= 0 &&
             mask_allows(&mask, head, pos_q[q], pos_k[k]);
}

// chunks: of 8 numbers, a head
__global__ void repeat_heads(const uint4 *in, uint4 *out, int heads_kv, int group, int chunks) {
  const int64_t row = blockIdx.x;
  for (int i = threadIdx.x; i < heads_kv * group * chunks; i += blockDim.x)
    out[row * heads_kv * group * chunks + i] =
        in[(row * heads_kv + i / chunks / group) * chunks + i % chunks];
}

// out [rows, heads_kv, dim] = sum over the group of in [rows, heads_kv * group, dim]
__global__ void sum_heads(const float *in, bf16 *out, int heads_kv, int group, int dim) {
  const int64_t row = blockIdx.x;
  for (int i = threadIdx.x; i < heads_kv * dim; i += blockDim.x) {
    float sum = 0;
    for (int g = 0; g < group; g++)
      sum += in[(row * heads_kv * group + i / dim * group + g) * dim + i % dim];
    out[row * heads_kv * dim + i] = __float2bfloat16(sum);
  }
}

struct reduce_max {
  static constexpr float zero = -INFINITY;
  __device__ static float of(float a, float b) { return fmaxf(a, b); }
};
struct reduce_sum {
  static constexpr float zero = 0;
  __device__ static float of(float a, float b) { return a + b; }
};

template<class Op> __device__ float block_reduce(float x) {
  __shared__ float part[THREADS / 32];
  for (int lane = 16; lane; lane /= 2)
    x = Op::of(x, __shfl_xor_sync(~0u, x, lane));
  __syncthreads(); // the last reduction's readers are done
  if (threadIdx.x % 32 == 0)
    part[threadIdx.x / 32] = x;
  __syncthreads();
  x = Op::zero;
  for (int i = 0; i < THREADS / 32; i++)
    x = Op::of(x, part[i]);
  return x;
}

__device__ float4 masked(float4 s, const uint8_t *visible, int k, int rows_k) {
  const uchar4 see = visible ? *(const uchar4 *)(visible + k) : make_uchar4(1, 1, 1, 1);
  return make_float4(
      see.x && k < rows_k ? s.x : -INFINITY, see.y && k + 1 < rows_k ? s.y : -INFINITY,
      see.z && k + 2 < rows_k ? s.z : -INFINITY, see.w && k + 3 < rows_k ? s.w : -INFINITY);
}

__device__ void store4(bf16 *to, float4 x) {
  __nv_bfloat162 two[2] = {__floats2bfloat162_rn(x.x, x.y), __floats2bfloat162_rn(x.z, x.w)};
  *(uint2 *)to = *(uint2 *)two;
}

// One block a row of one head. Scores (scaled here) become probabilities, in place. A row's first
// KEEP * 2048 columns stay in registers between the sum and the division by it: memory and L2
// deliver each of those scores once, and its exponential is taken once. Columns beyond: twice.
template<int KEEP>
__global__ void __launch_bounds__(THREADS)
    softmax_rows(float *scores, const uint8_t *visible, float *lse, float scale, int rows_k,
                 int64_t ld, int heads_a_mask) {
  constexpr int STEP = THREADS * 4;
  const int q = blockIdx.x, head = blockIdx.y, rows_q = gridDim.x;
  float *row = scores + ((int64_t)head * rows_q + q) * ld;
  const uint8_t *see =
      visible ? visible + ((int64_t)(head / heads_a_mask) * rows_q + q) * ld : nullptr;
  float max = -INFINITY, sum = 0;
  for (int k = KEEP * STEP + threadIdx.x * 4; k < rows_k; k += STEP) {
    const float4 s = masked(*(float4 *)(row + k), see, k, rows_k);
    const float top = fmaxf(fmaxf(s.x, s.y), fmaxf(s.z, s.w)) * scale;
    if (top > max) {
      sum *= __expf(max - top);
      max = top;
    }
    if (max > -INFINITY)
      sum += __expf(s.x * scale - max) + __expf(s.y * scale - max) + __expf(s.z * scale - max) +
             __expf(s.w * scale - max);
  }
  float4 kept[KEEP];
  float top = max;
#pragma unroll
  for (int i = 0; i < KEEP; i++) {
    const int k = i * STEP + threadIdx.x * 4;
    kept[i] = make_float4(-INFINITY, -INFINITY, -INFINITY, -INFINITY);
    if (k < rows_k)
      kept[i] = masked(*(float4 *)(row + k), see, k, rows_k);
    top = fmaxf(top, fmaxf(fmaxf(kept[i].x, kept[i].y), fmaxf(kept[i].z, kept[i].w)) * scale);
  }
  const float all = block_reduce<reduce_max>(top), shift = all > -INFINITY ? all : 0;
  sum = max > -INFINITY ? sum * __expf(max - shift) : 0;
#pragma unroll
  for (int i = 0; i < KEEP; i++) {
    kept[i] = make_float4(__expf(kept[i].x * scale - shift), __expf(kept[i].y * scale - shift),
                          __expf(kept[i].z * scale - shift), __expf(kept[i].w * scale - shift));
    sum += kept[i].x + kept[i].y + kept[i].z + kept[i].w;
  }
  sum = block_reduce<reduce_sum>(sum);
  const float norm = sum > 0 ? 1 / sum : 0;
  if (threadIdx.x == 0)
    lse[(int64_t)head * rows_q + q] = sum > 0 ? all + logf(sum) : -INFINITY;
  // All have read what these overwrite: the reductions are barriers.
#pragma unroll
  for (int i = 0; i < KEEP; i++) {
    const int k = i * STEP + threadIdx.x * 4;
    if (k < ld)
      store4((bf16 *)row + k, make_float4(kept[i].x * norm, kept[i].y * norm, kept[i].z * norm,
                                          kept[i].w * norm));
  }
  // Writes trail reads: a step's bytes lie in what is read already.
  for (int k0 = KEEP * STEP; k0 < ld; k0 += STEP) {
    const int k = k0 + threadIdx.x * 4;
    float4 p = make_float4(0, 0, 0, 0);
    if (k < ld) {
      const float4 s = masked(*(float4 *)(row + k), see, k, rows_k);
      p = make_float4(__expf(s.x * scale - shift) * norm, __expf(s.y * scale - shift) * norm,
                      __expf(s.z * scale - shift) * norm, __expf(s.w * scale - shift) * norm);
    }
    __syncthreads();
    if (k < ld)
      store4((bf16 *)row + k, p);
  }
}

// P = exp(scale * s - lse) and dS = scale * P * (dP - D), D = rowsum(dO * O); both in place.
__global__ void __launch_bounds__(THREADS)
    backward_rows(float *scores, float *d_scores, const uint8_t *visible, const float *lse,
                  const bf16 *o, const bf16 *d_o, float scale, int rows_k, int64_t ld,
                  int heads_a_mask, int dim) {
  const int q = blockIdx.x, head = blockIdx.y, rows_q = gridDim.x, heads = gridDim.y;
  const int64_t at = ((int64_t)head * rows_q + q) * ld;
  const uint8_t *see =
      visible ? visible + ((int64_t)(head / heads_a_mask) * rows_q + q) * ld : nullptr;
  const int64_t vec = ((int64_t)q * heads + head) * dim;
  float delta = 0;
  for (int i = threadIdx.x; i < dim; i += THREADS)
    delta += __bfloat162float(o[vec + i]) * __bfloat162float(d_o[vec + i]);
  delta = block_reduce<reduce_sum>(delta);
  float shift = lse[(int64_t)head * rows_q + q];
  if (shift == -INFINITY)
    shift = 0; // nothing is visible: exp(-inf - 0) = 0
  for (int k0 = 0; k0 < ld; k0 += THREADS * 4) {
    const int k = k0 + threadIdx.x * 4;
    float4 p = make_float4(0, 0, 0, 0), ds = p;
    if (k < ld) {
      const float4 s = masked(*(float4 *)(scores + at + k), see, k, rows_k);
      const float4 dp = *(float4 *)(d_scores + at + k);
      p = make_float4(__expf(s.x * scale - shift), __expf(s.y * scale - shift),
                      __expf(s.z * scale - shift), __expf(s.w * scale - shift));
      // dP of padding is whatever the allocation held: choose, do not multiply
      ds = make_float4(
          p.x > 0 ? p.x * (dp.x - delta) * scale : 0, p.y > 0 ? p.y * (dp.y - delta) * scale : 0,
          p.z > 0 ? p.z * (dp.z - delta) * scale : 0, p.w > 0 ? p.w * (dp.w - delta) * scale : 0);
    }
    __syncthreads();
    if (k < ld) {
      store4((bf16 *)(scores + at) + k, p);
      store4((bf16 *)(d_scores + at) + k, ds);
    }
  }
}

// ---- host code

const char *naive_supports(const struct attn_kernel *kernel, const struct attn_problem *p) {
  return p->dtype == ATTN_BF16 ? NULL : "device kernels take bf16";
}

int naive_prepare(struct attn_plan *plan) {
  const struct attn_problem *p = &plan->problem;
  naive *s = new naive();
  plan->state = s;
  if (!blas && cublasCreate(&blas) != CUBLAS_STATUS_SUCCESS) {
    attn_error_set(false, "cuBLAS does not start");
    return -1;
  }
  const int64_t rows_q = p->rows_q, rows_k = p->rows_k, heads = p->heads_q;
  s->ld = (rows_k + 7) / 8 * 8;
  s->masks = p->mask->heads ? p->mask->heads : 1;
  int64_t *prep = &plan->prep_bytes, *work = &plan->workspace_bytes;
  if (s->memory.get(&s->scores, heads * rows_q * s->ld, work))
    return -1;
  if (p->backward && (s->memory.get(&s->d_scores, heads * rows_q * s->ld, work) ||
                      s->memory.get(&s->dk, rows_k * heads * p->dim, work) ||
                      s->memory.get(&s->dv, rows_k * heads * p->dim, work)))
    return -1;
  if (p->heads_q != p->heads_kv && (s->memory.get(&s->k, rows_k * heads * p->dim, work) ||
                                    s->memory.get(&s->v, rows_k * heads * p->dim, work)))
    return -1;
  if (p->mask->kind == MASK_FULL && !p->q_seg && !p->k_seg)
    return 0;
  struct mask mask;
  int64_t passing = 0; // needed while building only
  gpu_memory building;
  int32_t *pos_q, *pos_k;
  const std::vector<int32_t> at_q = gpu_positions(p->q_seg, p->q_segs, p->rows_q),
                             at_k = gpu_positions(p->k_seg, p->k_segs, p->rows_k);
  if (s->memory.get(&s->visible, s->masks * rows_q * s->ld, prep) ||
      building.mask(&mask, p->mask, &passing) ||
      building.copy(&pos_q, at_q.data(), rows_q, &passing) ||
      building.copy(&pos_k, at_k.data(), rows_k, &passing))
    return -1;
  build_visible<<<dim3(p->rows_q, s->masks), 256>>>(mask, pos_q, pos_k, p->rows_k, s->ld,
                                                    s->visible);
  GPU_LAUNCHED("building the boolean mask");
  GPU_TRY(cudaDeviceSynchronize()); // `building` ends here
  return 0;
}

// C [batch of heads] = op(A) op(B), all column-major as BLAS has it; fp32 accumulation.
int product(cublasOperation_t op_a, cublasOperation_t op_b, int64_t m, int64_t n, int64_t k,
            const bf16 *a, int64_t ld_a, int64_t stride_a, const bf16 *b, int64_t ld_b,
            int64_t stride_b, void *c, cudaDataType type_c, int64_t ld_c, int64_t stride_c,
            int heads) {
  const float one = 1, zero = 0;
  const cublasStatus_t status = cublasGemmStridedBatchedEx(
      blas, op_a, op_b, (int)m, (int)n, (int)k, &one, a, CUDA_R_16BF, (int)ld_a, stride_a, b,
      CUDA_R_16BF, (int)ld_b, stride_b, &zero, c, type_c, (int)ld_c, stride_c, heads,
      CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
  if (status == CUBLAS_STATUS_SUCCESS)
    return 0;
  attn_error_set(false, "cuBLAS product %ld x %ld x %ld: %s", (long)m, (long)n, (long)k,
                 cublasGetStatusString(status));
  return -1;
}

// Scores [head, query, key] = X Y^T for X [rows_q, heads, dim], Y [rows_k, heads, dim].
int scores_of(const attn_problem *p, const naive *s, const bf16 *x, const bf16 *y, float *scores) {
  const int64_t row = (int64_t)p->heads_q * p->dim;
  return product(CUBLAS_OP_T, CUBLAS_OP_N, p->rows_k, p->rows_q, p->dim, y, row, p->dim, x, row,
                 p->dim, scores, CUDA_R_32F, s->ld, p->rows_q * s->ld, p->heads_q);
}

// out [rows_q, heads, dim] = P Y, where P are the bf16 rows in the place of `scores`
int rows_times(const attn_problem *p, const naive *s, const float *scores, const bf16 *y, void *out,
               cudaDataType type) {
  const int64_t row = (int64_t)p->heads_q * p->dim;
  return product(CUBLAS_OP_N, CUBLAS_OP_N, p->dim, p->rows_q, p->rows_k, y, row, p->dim,
                 (const bf16 *)scores, 2 * s->ld, 2 * p->rows_q * s->ld, out, type, row, p->dim,
                 p->heads_q);
}

// out [rows_k, heads, dim] = P^T X
int columns_times(const attn_problem *p, const naive *s, const float *scores, const bf16 *x,
                  float *out) {
  const int64_t row = (int64_t)p->heads_q * p->dim;
  return product(CUBLAS_OP_N, CUBLAS_OP_T, p->dim, p->rows_k, p->rows_q, x, row, p->dim,
                 (const bf16 *)scores, 2 * s->ld, 2 * p->rows_q * s->ld, out, CUDA_R_32F, row,
                 p->dim, p->heads_q);
}

// k and v with heads repeated to heads_q.
int repeat(const struct attn_plan *plan, const struct attn_args *a, const bf16 **k,
           const bf16 **v) {
  const struct attn_problem *p = &plan->problem;
  const naive *s = (const naive *)plan->state;
  *k = (const bf16 *)a->k;
  *v = (const bf16 *)a->v;
  if (p->heads_q == p->heads_kv)
    return 0;
  const int group = p->heads_q / p->heads_kv;
  const cudaStream_t stream = (cudaStream_t)a->stream;
  repeat_heads<<<p->rows_k, 256, 0, stream>>>((const uint4 *)*k, (uint4 *)s->k, p->heads_kv, group,
                                              p->dim / 8);
  repeat_heads<<<p->rows_k, 256, 0, stream>>>((const uint4 *)*v, (uint4 *)s->v, p->heads_kv, group,
                                              p->dim / 8);
  GPU_LAUNCHED("repeating KV heads");
  *k = s->k;
  *v = s->v;
  return 0;
}

float scale_of(const struct attn_plan *plan, const struct attn_args *a) {
  return a->scale != 0 ? a->scale : 1 / sqrtf((float)plan->problem.dim);
}

int naive_forward(struct attn_plan *plan, const struct attn_args *a) {
  const struct attn_problem *p = &plan->problem;
  naive *s = (naive *)plan->state;
  if (a->o_acc) {
    attn_error_set(false, "naive does not continue from a partial result");
    return -1;
  }
  const bf16 *k, *v;
  cublasSetStream(blas, (cudaStream_t)a->stream);
  if (repeat(plan, a, &k, &v) || scores_of(p, s, (const bf16 *)a->q, k, s->scores))
    return -1;
  const auto softmax = p->rows_k <= 4 * THREADS * 4 ? softmax_rows<4> : softmax_rows<8>;
  softmax<<<dim3(p->rows_q, p->heads_q), THREADS, 0, (cudaStream_t)a->stream>>>(
      s->scores, s->visible, a->lse, scale_of(plan, a), p->rows_k, s->ld, p->heads_q / s->masks);
  GPU_LAUNCHED("softmax");
  return rows_times(p, s, s->scores, v, a->o, CUDA_R_16BF);
}

int naive_backward(struct attn_plan *plan, const struct attn_args *a) {
  const struct attn_problem *p = &plan->problem;
  naive *s = (naive *)plan->state;
  if (a->accumulate) {
    attn_error_set(false, "naive does not add to given gradients");
    return -1;
  }
  const cudaStream_t stream = (cudaStream_t)a->stream;
  const bf16 *k, *v, *d_o = (const bf16 *)a->d_o;
  cublasSetStream(blas, stream);
  if (repeat(plan, a, &k, &v) || scores_of(p, s, (const bf16 *)a->q, k, s->scores) ||
      scores_of(p, s, d_o, v, s->d_scores))
    return -1;
  backward_rows<<<dim3(p->rows_q, p->heads_q), THREADS, 0, stream>>>(
      s->scores, s->d_scores, s->visible, a->lse, (const bf16 *)a->o, d_o, scale_of(plan, a),
      p->rows_k, s->ld, p->heads_q / s->masks, p->dim);
  GPU_LAUNCHED("backward of softmax");
  if (columns_times(p, s, s->scores, d_o, s->dv) ||
      columns_times(p, s, s->d_scores, (const bf16 *)a->q, s->dk))
    return -1;
  const int group = p->heads_q / p->heads_kv;
  sum_heads<<<p->rows_k, 256, 0, stream>>>(s->dk, (bf16 *)a->dk, p->heads_kv, group, p->dim);
  sum_heads<<<p->rows_k, 256, 0, stream>>>(s->dv, (bf16 *)a->dv, p->heads_kv, group, p->dim);
  GPU_LAUNCHED("summing KV heads");
  return rows_times(p, s, s->d_scores, k, a->dq, CUDA_R_16BF);
}

void naive_release(struct attn_plan *plan) { delete (naive *)plan->state; }

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
