// engine.cu -- host side of the wgmma engine: plans and tensor maps.
#include "engine.h"

#include <string.h>

#include "../gpu.cuh"
#include "backward_engine.h"
#include "gather.h"
#include "tensor_map.h"

#define REPS(R) R(band) R(columns) R(spans) R(blockmap) R(blocklist) R(varblock) R(dense)
#define DECLARE(X) extern const wgmma_rep wgmma_rep_##X;
REPS(DECLARE)
#define ENTRY(X) &wgmma_rep_##X,
static const wgmma_rep *const reps[] = {REPS(ENTRY)};

namespace {
struct state {
  const wgmma_rep *kernels;
  const void *forward; // of wgmma_use, or NULL
  rep_device rep;
  worklist keys; // of forward,
  gather pieces; // or these
  wgmma_backward_state backward;
};
} // namespace

const char *wgmma_supports(const char *rep, const struct attn_problem *p) {
  if (p->dtype != ATTN_BF16)
    return "device kernels take bf16";
  return rep_find(rep)->supports(p->mask);
}

// Whether gathering takes fewer steps of 64 x 128 pairs than whole tiles, of which many are partial where
// blocks are small or lie anywhere. Blocks of whole tiles need not ask. Builds the list that is taken.
static int prepare_forward(state *s, const attn_problem *p) {
  const bool lists = !strcmp(s->kernels->name, "blocklist") || !strcmp(s->kernels->name, "varblock");
  const bool uniform = p->mask->kind == MASK_UNIFORM_BLOCK_SPARSE;
  if (lists && !(uniform && p->mask->block % WGMMA_FWD_KEYS == 0)) {
    if (gather_build(&s->pieces, &s->rep, p))
      return -1;
    if (uniform && p->mask->block % 64 == 0)
      return 0;
  }
  if (worklist_build(&s->keys, &s->rep, p, WORKLIST_KEYS, WGMMA_FWD_QUERIES, WGMMA_FWD_KEYS, false))
    return -1;
  if (s->pieces.bytes && s->pieces.rounds <= s->keys.tiles * s->pieces.view.heads)
    worklist_free(&s->keys);
  else
    gather_free(&s->pieces);
  return 0;
}

int wgmma_prepare(struct attn_plan *plan, const char *rep) {
  const struct attn_problem *p = &plan->problem;
  state *s = new state();
  plan->state = s;
  for (const wgmma_rep *known : reps)
    if (!strcmp(known->name, rep))
      s->kernels = known;
  const state *like = gpu_like<state>(plan);
  if (like)
    s->backward.memory.like = &like->backward.memory;
  if ((like ? rep_device_share(&s->rep, &like->rep) : rep_device_open(&s->rep, rep_find(rep), p->mask)) ||
      prepare_forward(s, p))
    return -1;
  plan->prep_bytes = s->rep.bytes + s->keys.bytes + s->pieces.bytes;
  return p->backward ? wgmma_backward_prepare(&s->backward, &s->rep, plan) : 0;
}

int wgmma_forward(struct attn_plan *plan, const struct attn_args *a) {
  state *s = static_cast<state *>(plan->state);
  if (a->scale < 0) {
    attn_error_set(false, "the scale must be positive");
    return -1;
  }
  if (s->pieces.bytes)
    return gather_forward(&s->pieces, &plan->problem, a);
  worklist_view list = s->keys.view;
  if (a->o_acc && a->resume) // rows that see nothing stay as they are
    list.count = s->keys.seen;
  return list.count ? s->kernels->forward(&plan->problem, a, s->rep.copy, &list, s->forward) : 0;
}

void wgmma_use(struct attn_plan *plan, const void *forward, const void *backward) {
  state *s = static_cast<state *>(plan->state);
  s->forward = forward;
  s->backward.kernel = backward;
}

int wgmma_backward(struct attn_plan *plan, const struct attn_args *a) {
  const state *s = static_cast<const state *>(plan->state);
  if (a->scale < 0) {
    attn_error_set(false, "the scale must be positive");
    return -1;
  }
  return wgmma_backward_run(&s->backward, &s->rep, plan, a);
}

void wgmma_release(struct attn_plan *plan) {
  state *s = static_cast<state *>(plan->state);
  if (!s)
    return;
  worklist_free(&s->keys);
  gather_free(&s->pieces);
  rep_device_close(&s->rep);
  delete s;
}

// dims[0] and box[0] are 64 columns, strides in bytes are of the other dimensions.
static int encode_map(CUtensorMap *map, const void *data, const cuuint64_t (&dims)[4],
                      const cuuint64_t (&strides)[3], const cuuint32_t (&box)[4]) {
  // The driver's function by way of the runtime, so that the program needs no libcuda to link.
  typedef decltype(&cuTensorMapEncodeTiled) encode_fn;
  static encode_fn encode;
  if (!encode) {
    void *found = nullptr;
    cudaDriverEntryPointQueryResult how;
#if CUDART_VERSION >= 12050
    GPU_TRY(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &how));
#else
    GPU_TRY(cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &found, cudaEnableDefault, &how));
#endif
    if (!found) {
      attn_error_set(false, "the driver has no tensor maps: it is older than CUDA 12");
      return -1;
    }
    encode = reinterpret_cast<encode_fn>(found);
  }
  const cuuint32_t steps[4] = {1, 1, 1, 1};
  const CUresult status =
      encode(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 4, const_cast<void *>(data), dims, strides, box, steps,
             CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
             CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS) {
    attn_error_set(false, "tensor map of [%lld, %lld, %lld, 64] refused by the driver: error %d",
                   (long long)dims[3], (long long)dims[2], (long long)dims[1], (int)status);
    return -1;
  }
  return 0;
}

int tensor_map(CUtensorMap *map, const void *data, int rows, int heads, int dim, int box_rows) {
  const cuuint64_t r = rows, h = heads, chunks = dim / 64, head_bytes = 2 * dim;
  return encode_map(map, data, {64, r, chunks, h}, {h * head_bytes, 64 * 2, head_bytes},
                    {64, (cuuint32_t)box_rows, (cuuint32_t)chunks, 1});
}

int tensor_map_packed(CUtensorMap *map, const void *data, int rows, int heads, int dim, int box_rows,
                      int box_heads) {
  const cuuint64_t r = rows, h = heads, chunks = dim / 64, head_bytes = 2 * dim;
  return encode_map(map, data, {64, chunks, h, r}, {64 * 2, head_bytes, h * head_bytes},
                    {64, 1, (cuuint32_t)box_heads, (cuuint32_t)box_rows});
}
