// gather_forward.cu -- the forward kernel over a gather list (gather.h).
#include "forward_gather.cuh"
#include "launch.cuh"

namespace wgmma {

template <int Dim, int Pieces>
static int run(const gather *list, const split_view *split, const attn_problem *p, const attn_args *a) {
  fwd_params f = forward_params(p, a);
  f.o[0] = attn_writes_o(a) ? a->o : NULL;
  const int packed = list->view.heads;
  constexpr int keys = GATHER_KEYS / Pieces;
  if (tensor_map_packed(&f.q[0], a->q, p->rows_q, p->heads_q, Dim, GATHER_ROWS / packed, packed) ||
      tensor_map_packed(&f.k, a->k, p->rows_k, p->heads_kv, Dim, keys, 1) ||
      tensor_map_packed(&f.v, a->v, p->rows_k, p->heads_kv, Dim, keys, 1))
    return -1;
  f.gather = list->view;
  f.split = *split;
  const int64_t works = (int64_t)list->view.count * (p->heads_q / packed) - split->works + split->count;
  return launch(GPU_ENTRY(fwd_kernel<Dim, gathered<Pieces>>), &f, works, fwd_smem_bytes<Dim, gathered<Pieces>>(),
                a->stream);
}

} // namespace wgmma

int gather_forward(const gather *list, const split_view *split, const attn_problem *p, const attn_args *a) {
  if (list->view.pieces == 2)
    return p->dim == 64 ? wgmma::run<64, 2>(list, split, p, a) : wgmma::run<128, 2>(list, split, p, a);
  return p->dim == 64 ? wgmma::run<64, 4>(list, split, p, a) : wgmma::run<128, 4>(list, split, p, a);
}
