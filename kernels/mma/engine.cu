// engine.cu -- host side of the mma engine, and the two small passes around its backward.
#include "engine.h"

#include <string.h>

#include "../gpu.cuh"

#define REPS(R) R(band) R(dense) R(columns) R(blocklist)
#define DECLARE(X) extern const mma_rep mma_rep_##X;
REPS(DECLARE)
#define ENTRY(X) &mma_rep_##X,
static const mma_rep *const reps[] = {REPS(ENTRY)};

namespace {

constexpr float LOG2E = 1.4426950408889634f;

struct state {
  gpu_memory memory;
  const mma_rep *kernels;
  rep_device rep;
  worklist keys, queries; // of forward, of backward
  mma_backward_buffers buffers;
};

// ---- device code

// delta = rowsum(dO * O), and lse in log2 units with +inf for rows that see nothing, so that their
// P is 0. One warp a (row, head).
template<int DIM>
__global__ void before_backward(const bf16 *o, const bf16 *d_o, const float *lse, float *delta,
                                float *lse_log2, int rows, int heads) {
  const int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) / 32; // row * heads + head
  const int lane = threadIdx.x % 32;
  if (i >= (int64_t)rows * heads)
    return;
  float sum = 0;
#pragma unroll
  for (int d = 2 * lane; d < DIM; d += 64) {
    const float2 x = __bfloat1622float2(*(const __nv_bfloat162 *)(o + i * DIM + d));
    const float2 y = __bfloat1622float2(*(const __nv_bfloat162 *)(d_o + i * DIM + d));
    sum += x.x * y.x + x.y * y.y;
  }
  for (int step = 16; step; step /= 2)
    sum += __shfl_xor_sync(~0u, sum, step);
  if (lane == 0) {
    const int64_t at = i % heads * rows + i / heads;
    delta[at] = sum;
    lse_log2[at] = lse[at] == -INFINITY ? INFINITY : lse[at] * LOG2E;
  }
}

// n is a multiple of 4: DIM is.
__global__ void to_bf16(const float4 *in, uint2 *out, int64_t n4) {
  const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n4) {
    const float4 x = in[i];
    const __nv_bfloat162 y[2] = {__floats2bfloat162_rn(x.x, x.y), __floats2bfloat162_rn(x.z, x.w)};
    out[i] = *(const uint2 *)y;
  }
}

int round_to_bf16(const float *in, void *out, int64_t n, cudaStream_t stream) {
  to_bf16<<<(unsigned)((n / 4 + 255) / 256), 256, 0, stream>>>((const float4 *)in, (uint2 *)out,
                                                               n / 4);
  GPU_LAUNCHED("rounding gradients");
  return 0;
}

} // namespace

// ---- host code

const char *mma_supports(const char *rep, const struct attn_problem *p) {
  if (p->dtype != ATTN_BF16)
    return "device kernels take bf16";
  if (p->backward && p->deterministic)
    return "the mma engine adds dQ from many key tiles in no fixed order";
  return rep_find(rep)->supports(p->mask);
}

int mma_prepare(struct attn_plan *plan, const char *rep) {
  const struct attn_problem *p = &plan->problem;
  state *s = new state();
  plan->state = s;
  for (const mma_rep *known : reps)
    if (!strcmp(known->name, rep))
      s->kernels = known;
  if (rep_device_open(&s->rep, rep_find(rep), p->mask) ||
      worklist_build(&s->keys, &s->rep, p, WORKLIST_KEYS, MMA_FWD_QUERIES, MMA_FWD_KEYS))
    return -1;
  plan->prep_bytes = s->rep.bytes + s->keys.bytes;
  if (!p->backward)
    return 0;
  if (worklist_build(&s->queries, &s->rep, p, WORKLIST_QUERIES, MMA_BWD_KEYS, MMA_BWD_QUERIES))
    return -1;
  plan->prep_bytes += s->queries.bytes;
  int device, sms;
  GPU_TRY(cudaGetDevice(&device));
  GPU_TRY(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, device));
  // One CTA for a whole group where that gives each multiprocessor two items; else share the group.
  const int64_t items = (int64_t)s->queries.view.count * p->heads_kv,
                group = p->heads_q / p->heads_kv;
  s->buffers.splits = 1;
  while (items * s->buffers.splits < 2 * sms && s->buffers.splits < group)
    do
      s->buffers.splits++;
    while (group % s->buffers.splits);
  const int64_t rows = (int64_t)p->rows_q * p->heads_q;
  const int64_t keys = s->buffers.splits > 1 ? (int64_t)p->rows_k * p->heads_kv * p->dim : 0;
  return s->memory.get(&s->buffers.lse_log2, rows, &plan->workspace_bytes) ||
                 s->memory.get(&s->buffers.delta, rows, &plan->workspace_bytes) ||
                 s->memory.get(&s->buffers.dq_acc, rows * p->dim, &plan->workspace_bytes) ||
                 s->memory.get(&s->buffers.dk_acc, keys, &plan->workspace_bytes) ||
                 s->memory.get(&s->buffers.dv_acc, keys, &plan->workspace_bytes)
             ? -1
             : 0;
}

int mma_forward(struct attn_plan *plan, const struct attn_args *a) {
  state *s = (state *)plan->state;
  if (a->scale < 0) {
    attn_error_set(false, "the scale must be positive");
    return -1;
  }
  return s->kernels->forward(&plan->problem, a, s->rep.copy, &s->keys.view);
}

int mma_backward(struct attn_plan *plan, const struct attn_args *a) {
  const struct attn_problem *p = &plan->problem;
  state *s = (state *)plan->state;
  const cudaStream_t stream = (cudaStream_t)a->stream;
  const int64_t pairs = (int64_t)p->rows_q * p->heads_q,
                keys = (int64_t)p->rows_k * p->heads_kv * p->dim;
  mma_backward_buffers b = s->buffers;
  if (a->accumulate) { // straight into the caller's sums
    b.dq_acc = a->dq_acc;
    b.dk_acc = a->dk_acc;
    b.dv_acc = a->dv_acc;
  } else {
    GPU_TRY(cudaMemsetAsync(b.dq_acc, 0, pairs * p->dim * sizeof(float), stream));
    if (b.dk_acc) {
      GPU_TRY(cudaMemsetAsync(b.dk_acc, 0, keys * sizeof(float), stream));
      GPU_TRY(cudaMemsetAsync(b.dv_acc, 0, keys * sizeof(float), stream));
    }
  }
  const auto before = p->dim == 64 ? before_backward<64> : before_backward<128>;
  before<<<(unsigned)((pairs + 7) / 8), 256, 0, stream>>>(
      (const bf16 *)a->o, (const bf16 *)a->d_o, a->lse, b.delta, b.lse_log2, p->rows_q, p->heads_q);
  GPU_LAUNCHED("before backward");
  if (s->kernels->backward(p, a, s->rep.copy, &s->queries.view, &b))
    return -1;
  if (a->accumulate)
    return 0;
  if (round_to_bf16(b.dq_acc, a->dq, pairs * p->dim, stream))
    return -1;
  return b.dk_acc && (round_to_bf16(b.dk_acc, a->dk, keys, stream) ||
                      round_to_bf16(b.dv_acc, a->dv, keys, stream))
             ? -1
             : 0;
}

void mma_release(struct attn_plan *plan) {
  state *s = (state *)plan->state;
  if (!s)
    return;
  worklist_free(&s->keys);
  worklist_free(&s->queries);
  rep_device_close(&s->rep);
  delete s;
}
