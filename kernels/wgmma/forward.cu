// forward.cu -- the forward kernel over whole key tiles of a work list (worklist.h).
#include "forward.cuh"

#include "launch.cuh"

namespace wgmma {

static_assert(WGMMA_FWD_QUERIES == FWD_ROWS && WGMMA_FWD_KEYS == FWD_KEYS, "the work list is made for these tiles");

template <int Dim>
static int run(const attn_problem *p, const attn_args *a, const worklist_view *list, const split_view *split,
               const tile_bits_view *bits) {
  fwd_params f = forward_params(p, a);
  const int owners = a->owners ? p->rows_q / p->owner_rows : 1;
  const int64_t head_bytes = a->owners ? a->owners->head * (int64_t)Dim * 2 : 0;
  for (int i = 0; i < owners; i++) {
    const char *const q = static_cast<const char *>(a->owners ? a->owners->q[i] : a->q) + head_bytes;
    f.o[i] = !attn_writes_o(a) ? NULL : a->owners ? static_cast<char *>(a->owners->o[i]) + head_bytes : a->o;
    if (tensor_map(&f.q[i], q, f.owner_rows, p->heads_q, Dim, FWD_ROWS, f.owner_heads) ||
        (f.o[i] && !f.resume &&
         tensor_map(&f.o_tiles[i], f.o[i], f.owner_rows, p->heads_q, Dim, FWD_ROWS, f.owner_heads)))
      return -1;
  }
  if (tensor_map(&f.k, a->k, p->rows_k, p->heads_kv, Dim, FWD_KEYS) ||
      tensor_map(&f.v, a->v, p->rows_k, p->heads_kv, Dim, FWD_KEYS))
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
