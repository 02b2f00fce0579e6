// heads.c -- the two all-to-alls of Ulysses around attention: tokens are gathered while heads are split,
// and back. With one head rank there is nothing to exchange and the caller's tensors are used as they are.
//
//   in:   [rows, H, dim] --pack--> [A][rows, H / A, dim] --all-to-all--> [A * rows, H / A, dim]
//   out:  [A * rows, H / A, dim] --all-to-all--> [A][rows, H / A, dim] --unpack--> [rows, H, dim]
//
// With more ranks than KV heads each rank needs one whole KV head, so the same head goes to several ranks;
// its gradients come back once from each and are summed, in fp32.
#include "cp.h"

static int64_t bytes_of(const struct cp_plan *p, int32_t rows, int32_t heads) {
  return (int64_t)rows * heads * p->problem.dim * cp_elem_bytes(p->problem.dtype);
}

static void peers(const struct cp_plan *p, int *list) {
  for (int a = 0; a < p->grid.heads; a++)
    list[a] = cp_grid_rank(&p->grid, a, p->context);
}

// Places in the stage: q, o, dO, dQ take the first part; k, then v follow.
static char *stage_at(const struct cp_plan *p, int part) {
  const int64_t q = bytes_of(p, p->shard.context_rows, p->heads_q);
  const int64_t k =
      4 * (int64_t)p->shard.context_rows * p->heads_kv * p->problem.dim; // fp32 when summed
  return (char *)p->stage + (part > 0 ? q : 0) + (part > 1 ? k : 0);
}

int cp_heads_plan(struct cp_plan *p) {
  if (p->grid.heads > 1) {
    const int32_t rows = p->shard.context_rows;
    const int64_t q = bytes_of(p, rows, p->heads_q), k = bytes_of(p, rows, p->heads_kv);
    const int64_t k_fp32 = 4 * (int64_t)rows * p->heads_kv * p->problem.dim;
    if (!(p->stage = cp_buffer(p, q + 2 * k_fp32)) || !(p->q_in = cp_buffer(p, q)) ||
        !(p->o_in = cp_buffer(p, q)) || !(p->kv_in.k = cp_buffer(p, k)) ||
        !(p->kv_in.v = cp_buffer(p, k)))
      return -1;
    if (p->problem.backward &&
        (!(p->d_o_in = cp_buffer(p, q)) || !(p->dq_in = cp_buffer(p, q)) ||
         !(p->dkv_in.k = cp_buffer(p, k)) || !(p->dkv_in.v = cp_buffer(p, k))))
      return -1;
  }
  return cp_ring_plan(p);
}

// Packs x [rows, heads, dim] so that block a holds the `each` heads that rank a computes with.
static int pack(struct cp_plan *p, const void *x, int32_t heads, int32_t each, char *to) {
  const int64_t row = bytes_of(p, 1, heads), part = bytes_of(p, 1, each);
  for (int a = 0; a < p->grid.heads; a++) {
    const int64_t first = (int64_t)a * heads / p->grid.heads; // copies: neighbours share a head
    if (p->comm->memory->copy(to + a * part * p->shard.rows, part,
                              (const char *)x + bytes_of(p, 1, (int32_t)first), row, part,
                              p->shard.rows, p->comm->stream))
      return -1;
  }
  return 0;
}

// The reverse, without copies of heads.
static int unpack(struct cp_plan *p, void *x, int32_t heads, int32_t each, const char *from) {
  const int64_t row = bytes_of(p, 1, heads), part = bytes_of(p, 1, each);
  for (int a = 0; a < p->grid.heads; a++)
    if (p->comm->memory->copy((char *)x + a * part, row, from + a * part * p->shard.rows, part,
                              part, p->shard.rows, p->comm->stream))
      return -1;
  return 0;
}

// The parts of an exchange go on channels of their own, which the ring does not use meanwhile: packing k
// runs beside q's transfer.
static const enum cp_channel channels[] = {CP_HEADS, CP_KV, CP_KV_FAR};

static int post_exchange(struct cp_plan *p, int part, const void *send, void *recv, int64_t bytes) {
  int list[CP_HEADS_MAX];
  peers(p, list);
  return cp_all_to_all(p->comm, channels[part], list, p->grid.heads, send, recv, bytes);
}

static int wait_exchange(struct cp_plan *p, int part) {
  return p->comm->transport->wait(p->comm, channels[part]);
}

// Starts [rows, heads, dim] -> [context_rows, each, dim].
static int post_tokens(struct cp_plan *p, int part, const void *x, int32_t heads, int32_t each,
                       void *to) {
  return pack(p, x, heads, each, stage_at(p, part)) ||
                 post_exchange(p, part, stage_at(p, part), to, bytes_of(p, p->shard.rows, each))
             ? -1
             : 0;
}

// Starts [context_rows, each, dim] -> the stage; finish_heads unpacks it to [rows, heads, dim].
static int post_heads(struct cp_plan *p, int part, const void *from, int32_t each) {
  return post_exchange(p, part, from, stage_at(p, part), bytes_of(p, p->shard.rows, each));
}

static int finish_heads(struct cp_plan *p, int part, void *x, int32_t heads, int32_t each) {
  return wait_exchange(p, part) || unpack(p, x, heads, each, stage_at(p, part)) ? -1 : 0;
}

// dK or dV of copied heads: block a of the stage is rank a's share, [rows, 1, dim] fp32; `copies`
// neighbouring ones belong to one head.
static int sum_copies(struct cp_plan *p, int part, void *x) {
  const struct cp_memory *memory = p->comm->memory;
  const int64_t n = (int64_t)p->shard.rows * p->problem.dim;
  const int64_t width = p->problem.dim * cp_elem_bytes(p->problem.dtype);
  float *stage = (float *)stage_at(p, part);
  if (wait_exchange(p, part))
    return -1;
  for (int h = 0; h < p->problem.heads_kv; h++) {
    float *sum = stage + h * p->copies * n;
    for (int c = 1; c < p->copies; c++)
      if (memory->add(sum, sum + c * n, n, p->comm->stream))
        return -1;
    // Rounded where the first share was: what follows in the stage is another head's.
    if (p->problem.dtype != ATTN_FP32 &&
        memory->cast(p->dkv_in.k, p->problem.dtype, sum, n, p->comm->stream))
      return -1;
    const void *done = p->problem.dtype == ATTN_FP32 ? (const void *)sum : p->dkv_in.k;
    if (memory->copy((char *)x + h * width, width * p->problem.heads_kv, done, width, width,
                     p->shard.rows, p->comm->stream))
      return -1;
  }
  return 0;
}

int cp_heads_forward(struct cp_plan *p, const struct attn_args *args) {
  if (p->grid.heads == 1)
    return cp_ring_forward(p, args);
  const struct attn_problem *whole = &p->problem;
  if (post_tokens(p, 0, args->q, whole->heads_q, p->heads_q, p->q_in) ||
      post_tokens(p, 1, args->k, whole->heads_kv, p->heads_kv, p->kv_in.k) ||
      post_tokens(p, 2, args->v, whole->heads_kv, p->heads_kv, p->kv_in.v) || wait_exchange(p, 0) ||
      wait_exchange(p, 1) || wait_exchange(p, 2))
    return -1;
  struct attn_args a = *args;
  a.q = p->q_in;
  a.k = p->kv_in.k;
  a.v = p->kv_in.v;
  a.o = p->o_in;
  return cp_ring_forward(p, &a) || post_heads(p, 0, p->o_in, p->heads_q) ||
                 finish_heads(p, 0, args->o, whole->heads_q, p->heads_q)
             ? -1
             : 0;
}

int cp_heads_backward(struct cp_plan *p, const struct attn_args *args) {
  if (p->grid.heads == 1)
    return cp_ring_backward(p, args);
  const struct attn_problem *whole = &p->problem;
  if (post_tokens(p, 0, args->d_o, whole->heads_q, p->heads_q, p->d_o_in) || wait_exchange(p, 0))
    return -1;
  struct attn_args a = *args;
  a.q = p->q_in; // kept by forward, as are k, v and o
  a.k = p->kv_in.k;
  a.v = p->kv_in.v;
  a.o = p->o_in;
  a.d_o = p->d_o_in;
  a.dq = p->dq_in;
  a.dk = p->dkv_in.k;
  a.dv = p->dkv_in.v;
  if (cp_ring_backward(p, &a) || post_heads(p, 0, p->dq_in, p->heads_q))
    return -1;
  if (p->copies == 1)
    return post_heads(p, 1, p->dkv_in.k, p->heads_kv) ||
                   post_heads(p, 2, p->dkv_in.v, p->heads_kv) ||
                   finish_heads(p, 0, args->dq, whole->heads_q, p->heads_q) ||
                   finish_heads(p, 1, args->dk, whole->heads_kv, p->heads_kv) ||
                   finish_heads(p, 2, args->dv, whole->heads_kv, p->heads_kv)
               ? -1
               : 0;
  const int64_t n = (int64_t)p->shard.context_rows * p->heads_kv * whole->dim,
                bytes = 4LL * p->shard.rows * whole->dim;
  return post_exchange(p, 1, p->grad[0], stage_at(p, 1), bytes) ||
                 post_exchange(p, 2, p->grad[0] + n, stage_at(p, 2), bytes) ||
                 finish_heads(p, 0, args->dq, whole->heads_q, p->heads_q) ||
                 sum_copies(p, 1, args->dk) || sum_copies(p, 2, args->dv)
             ? -1
             : 0;
}
