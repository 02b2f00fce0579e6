// launch.cuh -- the engine's kernels for one representation: MMA_REP(band) in band.cu.
#ifndef LONGCA_MMA_LAUNCH_CUH
#define LONGCA_MMA_LAUNCH_CUH

#include "backward.cuh"
#include "engine.h"
#include "forward.cuh"

namespace mma {

// Whether tiles of 64 are compiled for this representation: lists of such blocks profit.
template<class Rep> constexpr bool small_tiles = false;

template<class Rep, int DIM, int WARPS, int HEADS>
int launch_forward_as(const attn_problem *p, const attn_args *a, const void *rep,
                   const worklist_view *list) {
  forward_args<Rep> f = {(const bf16 *)a->q,
                         (const bf16 *)a->k,
                         (const bf16 *)a->v,
                         (bf16 *)(attn_writes_o(a) ? a->o : NULL),
                         a->o_acc,
                         a->lse,
                         a->o_acc && a->resume,
                         p->rows_q,
                         p->heads_q,
                         p->heads_kv,
                         mma_scale(p, a) * LOG2E,
                         *list,
                         *(const Rep *)rep};
  const auto kernel = forward<Rep, DIM, WARPS, HEADS>;
  const int smem = sizeof(forward_smem<DIM, WARPS>);
  GPU_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, smem));
  kernel<<<dim3(list->count, p->heads_q / HEADS), WARPS * 32, smem, (cudaStream_t)a->stream>>>(f);
  GPU_LAUNCHED("mma forward");
  return 0;
}

template<class Rep, int DIM>
int launch_forward(const attn_problem *p, const attn_args *a, const void *rep,
                   const worklist_view *list, const mma_tiles *tiles) {
  if constexpr (small_tiles<Rep>)
    if (tiles->queries == 64)
      return tiles->heads == 2 ? launch_forward_as<Rep, DIM, 4, 2>(p, a, rep, list)
                               : launch_forward_as<Rep, DIM, 2, 1>(p, a, rep, list);
  return launch_forward_as<Rep, DIM, 4, 1>(p, a, rep, list);
}

template<class Rep, int DIM, int KEYS>
int launch_backward_as(const attn_problem *p, const attn_args *a, const void *rep,
                       const worklist_view *list, const mma_backward_buffers *b) {
  const float scale = mma_scale(p, a);
  backward_args<Rep> f = {(const bf16 *)a->q, (const bf16 *)a->k,
                          (const bf16 *)a->v, (const bf16 *)a->d_o,
                          b->lse_log2,        b->delta,
                          b->dq,              (bf16 *)a->dk,
                          (bf16 *)a->dv,      b->dk_acc,
                          b->dv_acc,          b->sums,
                          p->rows_q,          p->heads_q,
                          p->heads_kv,        b->whole,
                          b->pieces,          scale,
                          scale * LOG2E,      *list,
                          *(const Rep *)rep};
  const auto kernel = backward<Rep, DIM, KEYS>;
  int major; // the kernel was compiled for the highest architecture that this device takes
  if (gpu_attribute(&major, cudaDevAttrComputeCapabilityMajor))
    return -1;
  const int smem = major == 9 ? sizeof(backward_smem<DIM, KEYS, true>)
                              : sizeof(backward_smem<DIM, KEYS, false>);
  GPU_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, smem));
  kernel<<<b->whole + b->piece_count, 2 * KEYS, smem, (cudaStream_t)a->stream>>>(f);
  GPU_LAUNCHED("mma backward");
  return 0;
}

template<class Rep, int DIM>
int launch_backward(const attn_problem *p, const attn_args *a, const void *rep,
                    const worklist_view *list, const mma_tiles *tiles,
                    const mma_backward_buffers *b) {
  if constexpr (small_tiles<Rep>)
    if (tiles->keys == 64)
      return launch_backward_as<Rep, DIM, 64>(p, a, rep, list, b);
  return launch_backward_as<Rep, DIM, 128>(p, a, rep, list, b);
}

} // namespace mma

// rep_allows comes before the kernels are instantiated; a specialised row_view may follow
// MMA_ALLOWS.
#define MMA_REP(X) \
  static int X##_forward(const attn_problem *p, const attn_args *a, const void *rep, \
                         const worklist_view *list, const mma_tiles *tiles) { \
    return p->dim == 64 ? mma::launch_forward<X, 64>(p, a, rep, list, tiles) \
                        : mma::launch_forward<X, 128>(p, a, rep, list, tiles); \
  } \
  static int X##_backward(const attn_problem *p, const attn_args *a, const void *rep, \
                          const worklist_view *list, const mma_tiles *tiles, \
                          const mma_backward_buffers *buffers) { \
    return p->dim == 64 ? mma::launch_backward<X, 64>(p, a, rep, list, tiles, buffers) \
                        : mma::launch_backward<X, 128>(p, a, rep, list, tiles, buffers); \
  } \
  extern const mma_rep mma_rep_##X; \
  const mma_rep mma_rep_##X = {#X, X##_forward, X##_backward};

#endif
