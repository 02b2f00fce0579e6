// launch.cuh -- what the forward kernel's two kinds of list have in common on the host (forward.cu,
// gather_forward.cu).
#ifndef LONGCA_WGMMA_LAUNCH_CUH
#define LONGCA_WGMMA_LAUNCH_CUH

#include <math.h>

#include <algorithm>

#include "../gpu.cuh"
#include "engine.h"
#include "forward.cuh"
#include "tensor_map.h"

namespace wgmma {

// The tensor maps, o and the list remain.
static inline fwd_params forward_params(const attn_problem *p, const attn_args *a) {
  fwd_params f = {};
  f.o_acc = a->o_acc;
  f.lse = a->lse;
  f.resume = a->o_acc && a->resume;
  f.rows = p->rows_q;
  f.tile_rows = FWD_ROWS;
  f.heads = p->heads_q;
  f.owner_rows = a->owners ? p->owner_rows : p->rows_q;
  f.owner_heads = a->owners ? a->owners->heads : p->heads_q;
  f.group = p->heads_q / p->heads_kv;
  f.heads_section = split_section(p);
  f.scale = a->scale != 0 ? a->scale : 1 / sqrtf((float)p->dim);
  f.scale_log2 = f.scale * 1.4426950408889634f;
  return f;
}

// A persistent CTA a multiprocessor, or a CTA a tile where that is fewer.
static inline int launch(const void *kernel, fwd_params *params, int64_t tiles, int smem, void *stream) {
  void *args[] = {params};
  int sms;
  if (gpu_attribute(&sms, cudaDevAttrMultiProcessorCount))
    return -1;
  GPU_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, smem));
  const int grid = (int)std::min((int64_t)sms, tiles);
  return gpu_check(cudaLaunchKernel(kernel, grid, FWD_THREADS, args, smem, (cudaStream_t)stream),
                   "wgmma forward");
}

} // namespace wgmma

#endif
