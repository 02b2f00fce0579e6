// launch.cuh -- the engine's kernels for one representation: WGMMA_REP(band) in band.cu.
#ifndef LONGCA_WGMMA_LAUNCH_CUH
#define LONGCA_WGMMA_LAUNCH_CUH

#include <math.h>

#include <algorithm>

#include "../gpu.cuh"
#include "engine.h"
#include "forward.cuh"
#include "tensor_map.h"

namespace wgmma {

static_assert(WGMMA_FWD_QUERIES == FWD_ROWS && WGMMA_FWD_KEYS == FWD_KEYS,
              "the work list is made for these tiles");

// What both kinds of list have in common; the tensor maps and the list remain.
static inline fwd_params forward_params(const attn_problem *p, const attn_args *a) {
  fwd_params f = {};
  f.o = attn_writes_o(a) ? a->o : NULL;
  f.o_acc = a->o_acc;
  f.lse = a->lse;
  f.resume = a->o_acc && a->resume;
  f.rows = p->rows_q;
  f.heads = p->heads_q;
  f.group = p->heads_q / p->heads_kv;
  f.heads_section = split_section(p);
  f.scale = a->scale != 0 ? a->scale : 1 / sqrtf((float)p->dim);
  f.scale_log2 = f.scale * 1.4426950408889634f;
  return f;
}

// A persistent CTA a multiprocessor, or a CTA a tile where that is fewer.
static inline int launch(const void *kernel, void **args, int64_t tiles, int smem, void *stream) {
  int device, sms;
  GPU_TRY(cudaGetDevice(&device));
  GPU_TRY(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, device));
  GPU_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, smem));
  const int grid = (int)std::min((int64_t)sms, tiles);
  return gpu_check(cudaLaunchKernel(kernel, grid, FWD_THREADS, args, smem, (cudaStream_t)stream),
                   "wgmma forward");
}

template <class Rep, int Dim> const void *own_forward() {
  return GPU_ENTRY(fwd_kernel<Dim, Rep>);
}

template <class Rep, int Dim>
int launch_forward(const attn_problem *p, const attn_args *a, const void *rep, const worklist_view *list,
                   const split_view *split, const void *kernel) {
  if (!kernel)
    kernel = own_forward<Rep, Dim>();
  fwd_params f = forward_params(p, a);
  if (tensor_map(&f.q, a->q, p->rows_q, p->heads_q, Dim, FWD_ROWS) ||
      tensor_map(&f.k, a->k, p->rows_k, p->heads_kv, Dim, FWD_KEYS) ||
      tensor_map(&f.v, a->v, p->rows_k, p->heads_kv, Dim, FWD_KEYS))
    return -1;
  f.list = *list;
  f.split = *split;
  void *args[] = {&f, (void *)rep};
  const int64_t works = (int64_t)list->count * p->heads_q - split->works + split->count;
  return launch(kernel, args, works, fwd_smem_bytes<Dim, Rep>(), a->stream);
}

} // namespace wgmma

#define WGMMA_REP(X)                                                                                   \
  static int X##_forward(const attn_problem *p, const attn_args *a, const void *rep,                   \
                         const worklist_view *list, const split_view *split, const void *kernel) {     \
    return p->dim == 64 ? wgmma::launch_forward<X, 64>(p, a, rep, list, split, kernel)                 \
                        : wgmma::launch_forward<X, 128>(p, a, rep, list, split, kernel);               \
  }                                                                                                    \
  extern const wgmma_rep wgmma_rep_##X;                                                                \
  const wgmma_rep wgmma_rep_##X = {#X, X##_forward};

#endif
