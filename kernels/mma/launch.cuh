// launch.cuh -- the engine's kernels for one representation: MMA_REP(band) in band.cu.
#ifndef LONGCA_MMA_LAUNCH_CUH
#define LONGCA_MMA_LAUNCH_CUH

#include <math.h>

#include "backward.cuh"
#include "engine.h"
#include "forward.cuh"

namespace mma {

static inline float scale_of(const attn_problem *p, const attn_args *a) {
  return a->scale != 0 ? a->scale : 1 / sqrtf((float)p->dim);
}

template<class Rep, int DIM>
int launch_forward(const attn_problem *p, const attn_args *a, const void *rep,
                   const worklist_view *list) {
  forward_args<Rep> f = {(const bf16 *)a->q,
                         (const bf16 *)a->k,
                         (const bf16 *)a->v,
                         (bf16 *)a->o,
                         a->o_acc,
                         a->lse,
                         a->o_acc && a->resume,
                         p->rows_q,
                         p->heads_q,
                         p->heads_kv,
                         scale_of(p, a) * LOG2E,
                         *list,
                         *(const Rep *)rep};
  const auto kernel = forward<Rep, DIM>;
  const int smem = sizeof(forward_smem<DIM>);
  GPU_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, smem));
  kernel<<<dim3(list->count, p->heads_q), FWD_THREADS, smem, (cudaStream_t)a->stream>>>(f);
  GPU_LAUNCHED("mma forward");
  return 0;
}

template<class Rep, int DIM>
int launch_backward(const attn_problem *p, const attn_args *a, const void *rep,
                    const worklist_view *list, const mma_backward_buffers *b) {
  const float scale = scale_of(p, a);
  backward_args<Rep> f = {(const bf16 *)a->q, (const bf16 *)a->k,
                          (const bf16 *)a->v, (const bf16 *)a->d_o,
                          b->lse_log2,        b->delta,
                          b->dq_acc,          (bf16 *)a->dk,
                          (bf16 *)a->dv,      b->dk_acc,
                          b->dv_acc,          p->rows_q,
                          p->heads_q,         p->heads_kv,
                          b->splits,          scale,
                          scale * LOG2E,      *list,
                          *(const Rep *)rep};
  const auto kernel = backward<Rep, DIM>;
  int device, major; // the kernel was compiled for the highest architecture that this device takes
  GPU_TRY(cudaGetDevice(&device));
  GPU_TRY(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  const int smem =
      major == 9 ? sizeof(backward_smem<DIM, true>) : sizeof(backward_smem<DIM, false>);
  GPU_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, smem));
  kernel<<<dim3(list->count, p->heads_kv * b->splits), BWD_THREADS, smem,
           (cudaStream_t)a->stream>>>(f);
  GPU_LAUNCHED("mma backward");
  return 0;
}

} // namespace mma

// rep_allows comes before the kernels are instantiated; a specialised row_view may follow
// MMA_ALLOWS.
#define MMA_REP(X) \
  static int X##_forward(const attn_problem *p, const attn_args *a, const void *rep, \
                         const worklist_view *list) { \
    return p->dim == 64 ? mma::launch_forward<X, 64>(p, a, rep, list) \
                        : mma::launch_forward<X, 128>(p, a, rep, list); \
  } \
  static int X##_backward(const attn_problem *p, const attn_args *a, const void *rep, \
                          const worklist_view *list, const mma_backward_buffers *buffers) { \
    return p->dim == 64 ? mma::launch_backward<X, 64>(p, a, rep, list, buffers) \
                        : mma::launch_backward<X, 128>(p, a, rep, list, buffers); \
  } \
  extern const mma_rep mma_rep_##X; \
  const mma_rep mma_rep_##X = {#X, X##_forward, X##_backward};

#endif
