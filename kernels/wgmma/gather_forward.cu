// gather_forward.cu -- the forward kernel over a gather list (gather.h).
#include "forward_gather.cuh"
#include "launch.cuh"

namespace wgmma {

template <int Dim, class Mask>
static int run(const gather *list, const split_view *split, const attn_problem *p, const attn_args *a) {
  fwd_params f = forward_params(p, a);
  f.o[0] = attn_writes_o(a) ? a->o : NULL;
  const int heads = list->view.heads, box_rows = (fwd_shape<Mask>::Halves ? GATHER_ROWS : FWD_ROWS) / heads;
  constexpr int keys = GATHER_KEYS / fwd_shape<Mask>::Pieces;
  if (tensor_map_packed(&f.q[0], a->q, p->rows_q, p->heads_q, Dim, box_rows, heads) ||
      tensor_map_packed(&f.k, a->k, p->rows_k, p->heads_kv, Dim, keys, 1) ||
      tensor_map_packed(&f.v, a->v, p->rows_k, p->heads_kv, Dim, keys, 1) ||
      (f.o[0] && !f.resume && tensor_map_packed(&f.o_tiles[0], f.o[0], p->rows_q, p->heads_q, Dim, box_rows, heads)))
    return -1;
  f.gather = list->view;
  f.split = *split;
  f.tile_rows = FWD_ROWS / heads;
  const int64_t works = (int64_t)list->view.count * (p->heads_q / heads) - split->works + split->count;
  return launch(GPU_ENTRY(fwd_kernel<Dim, Mask>), &f, works, fwd_smem_bytes<Dim, Mask>(), a->stream);
}

template <int Pieces>
static int run(const gather *list, const split_view *split, const attn_problem *p, const attn_args *a) {
  if (list->view.heads > 1)
    return p->dim == 64 ? run<64, packed<Pieces>>(list, split, p, a) : run<128, packed<Pieces>>(list, split, p, a);
  return p->dim == 64 ? run<64, halves<Pieces>>(list, split, p, a) : run<128, halves<Pieces>>(list, split, p, a);
}

} // namespace wgmma

int gather_forward(const gather *list, const split_view *split, const attn_problem *p, const attn_args *a) {
  return list->view.pieces == 2 ? wgmma::run<2>(list, split, p, a) : wgmma::run<4>(list, split, p, a);
}
