// forward.cu -- the forward kernel over whole key tiles of a work list (worklist.h).
#include "forward.cuh"

#include "launch.cuh"

namespace wgmma {

static_assert(WGMMA_FWD_QUERIES == FWD_ROWS && WGMMA_FWD_KEYS == FWD_KEYS, "the work list is made for these tiles");

template <int Dim>
static int run(const attn_problem *p, const attn_args *a, const worklist_view *list, const split_view *split,
               const tile_bits_view *bits) {
  fwd_params f = forward_params(p, a);
  if (tensor_map(&f.q, a->q, p->rows_q, p->heads_q, Dim, FWD_ROWS) ||
      tensor_map(&f.k, a->k, p->rows_k, p->heads_kv, Dim, FWD_KEYS) ||
      tensor_map(&f.v, a->v, p->rows_k, p->heads_kv, Dim, FWD_KEYS) ||
      (f.o && !f.resume && tensor_map(&f.o_tiles, f.o, p->rows_q, p->heads_q, Dim, FWD_ROWS)))
    return -1;
  f.list = *list;
  f.split = *split;
  f.bits = *bits;
  const int64_t works = (int64_t)list->count * p->heads_q - split->works + split->count;
  return launch(GPU_ENTRY(fwd_kernel<Dim, whole_tiles>), &f, works, fwd_smem_bytes<Dim, whole_tiles>(), a->stream);
}

} // namespace wgmma

int whole_forward(const attn_problem *p, const attn_args *a, const worklist_view *list, const split_view *split,
                  const tile_bits_view *bits) {
  return p->dim == 64 ? wgmma::run<64>(p, a, list, split, bits) : wgmma::run<128>(p, a, list, split, bits);
}
