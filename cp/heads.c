// heads.c -- the two all-to-alls of Ulysses around attention: tokens are gathered while heads are split,
// and back. With one head rank there is nothing to exchange and the caller's tensors are used as they are.
//
//   in:   [rows, H, dim] --pack--> [A][rows, H / A, dim] --all-to-all--> [A * rows, H / A, dim]
//   out:  [A * rows, H / A, dim] --all-to-all--> [A][rows, H / A, dim] --unpack--> [rows, H, dim]
//
// A rank's heads come, are computed and go back in pieces, each laid out as above by itself: while one is computed,
// the next arrives and the one before leaves. What no kernel hides is the first one's way in and the last one's
// way out, under which the others are packed and unpacked.
//
//   transfers:  in 0   |  in 1    | out 0, in 2 | out 1, in 3 |  out 2   |   out 3
//   compute:    pack   | kernel 0 |  kernel 1   |  kernel 2   | kernel 3 |  unpack
//
// Where the kernel reaches the other ranks' Q and O (owners.c), these stay out of it, and there is one piece.
//
// With more ranks than KV heads each rank needs one whole KV head, so the same head goes to several ranks;
// its gradients come back once from each and are summed, in fp32.
#include "cp.h"

// A tensor to exchange. A rank's own block goes straight from `whole` to `pieces` and back, others by the stage.
struct tensor {
  char *whole;  // [rows, heads, dim], the caller's
  char *pieces; // [pieces / shared][head ranks][rows, each, dim], what kernels see
  char *stage;  // the same, packed here or as it arrives
  int32_t heads, each;
  int shared;   // pieces of query heads that read the same one of these
  int64_t elem; // bytes
};
enum { TENSORS_MAX = 3 };

static int64_t bytes_of(const struct cp_plan *p, int32_t rows, int32_t heads) {
  return (int64_t)rows * heads * p->problem.dim * cp_elem_bytes(p->problem.dtype);
}

// Bytes of k's part of the stage, which v's follows: fp32 when summed.
static int64_t kv_stage_bytes(const struct cp_plan *p) {
  return 4 * (int64_t)p->shard.context_rows * p->heads_kv * p->problem.dim;
}

// What the exchange of q and o takes: with a direct plan only once it is called with tensors that are not mapped.
static int make_q_buffers(struct cp_plan *p) {
  const int64_t q = bytes_of(p, p->shard.context_rows, p->heads_q);
  return p->o_in || ((p->stage_q = cp_buffer(p, q)) && (p->q_in = cp_buffer(p, q)) &&
                     (p->o_in = cp_buffer(p, q)))
             ? 0
             : -1;
}

int cp_heads_plan(struct cp_plan *p) {
  if (p->grid.heads > 1) {
    const int32_t rows = p->shard.context_rows;
    const int64_t q = bytes_of(p, rows, p->heads_q), k = bytes_of(p, rows, p->heads_kv);
    if ((!p->grid.direct && make_q_buffers(p)) ||
        !(p->stage = cp_buffer(p, 2 * kv_stage_bytes(p))) || !(p->kv_in.k = cp_buffer(p, k)) ||
        !(p->kv_in.v = cp_buffer(p, k)))
      return -1;
    if (p->problem.backward &&
        (!(p->d_o_in = cp_buffer(p, q)) || !(p->dq_in = cp_buffer(p, q)) ||
         !(p->dkv_in.k = cp_buffer(p, k)) || !(p->dkv_in.v = cp_buffer(p, k))))
      return -1;
  }
  return cp_ring_plan(p);
}

static struct tensor of_q(const struct cp_plan *p, const void *whole, void *pieces) {
  return (struct tensor){.whole = (char *)whole,
                         .pieces = pieces,
                         .stage = p->stage_q,
                         .heads = p->problem.heads_q,
                         .each = p->piece_q,
                         .shared = 1,
                         .elem = cp_elem_bytes(p->problem.dtype)};
}

static struct tensor of_kv(const struct cp_plan *p, int part, const void *whole, void *pieces) {
  return (struct tensor){.whole = (char *)whole,
                         .pieces = pieces,
                         .stage = (char *)p->stage + (part > 1 ? kv_stage_bytes(p) : 0),
                         .heads = p->problem.heads_kv,
                         .each = p->piece_kv,
                         .shared = p->grid.pieces * p->piece_kv / p->heads_kv,
                         .elem = cp_elem_bytes(p->problem.dtype)};
}

// What goes in and what comes out, of a pass; how many.
static int tensors_in(const struct cp_plan *p, enum attn_pass pass, const struct attn_args *args,
                      struct tensor *list) {
  if (pass == ATTN_BWD) {
    list[0] = of_q(p, args->d_o, p->d_o_in);
    return 1;
  }
  int n = 0;
  if (!cp_owners_know(p, args))
    list[n++] = of_q(p, args->q, p->q_in);
  list[n++] = of_kv(p, 1, args->k, p->kv_in.k);
  list[n++] = of_kv(p, 2, args->v, p->kv_in.v);
  return n;
}

static int tensors_out(const struct cp_plan *p, enum attn_pass pass, const struct attn_args *args,
                       struct tensor *list) {
  if (pass == ATTN_FWD) {
    list[0] = of_q(p, args->o, p->o_in);
    return cp_owners_know(p, args) ? 0 : 1;
  }
  list[0] = of_q(p, args->dq, p->dq_in);
  list[1] = of_kv(p, 1, args->dk, p->dkv_in.k);
  list[2] = of_kv(p, 2, args->dv, p->dkv_in.v);
  if (p->copies > 1) { // as the ring leaves them, in fp32
    const int64_t n = (int64_t)p->shard.context_rows * p->heads_kv * p->problem.dim;
    list[1].pieces = (char *)p->grad[0];
    list[2].pieces = (char *)(p->grad[0] + n);
    list[1].elem = list[2].elem = 4;
  }
  return 3;
}

static int64_t block_bytes(const struct cp_plan *p, const struct tensor *t) {
  return t->elem * p->shard.rows * t->each * p->problem.dim;
}

// Byte of piece i, from where a tensor's pieces, or its stage, begin.
static int64_t piece_at(const struct cp_plan *p, const struct tensor *t, int i) {
  return i / t->shared * p->grid.heads * block_bytes(p, t);
}

// Pieces [begin, end) from the whole tensors into blocks, or back (without copies of heads).
static int pack(struct cp_plan *p, const struct tensor *list, int n, int begin, int end,
                bool back) {
  struct cp_move moves[CP_MOVES_MAX];
  int count = 0;
  for (int i = begin; i < end; i++)
    for (const struct tensor *t = list; t < list + n; t++)
      for (int a = 0; a < p->grid.heads && i % t->shared == 0; a++) {
        const int64_t head = t->elem * p->problem.dim, width = head * t->each;
        const int64_t first = (int64_t)a * t->heads / p->grid.heads + i / t->shared * t->each;
        char *block =
            (a == p->head ? t->pieces : t->stage) + piece_at(p, t, i) + a * block_bytes(p, t);
        char *rows = t->whole + first * head; // copies: neighbours share a head
        moves[count++] =
            back ? (struct cp_move){rows, block, t->heads * head, width, width, p->shard.rows}
                 : (struct cp_move){block, rows, width, t->heads * head, width, p->shard.rows};
        if (count == CP_MOVES_MAX) {
          if (p->comm->memory->move(moves, count, p->comm->stream))
            return -1;
          count = 0;
        }
      }
  return count ? p->comm->memory->move(moves, count, p->comm->stream) : 0;
}

// Adds the blocks of piece i to what is exchanged.
static int add_blocks(const struct cp_plan *p, const struct tensor *list, int n, int i, bool back,
                      struct cp_blocks *sets) {
  int count = 0;
  for (const struct tensor *t = list; t < list + n; t++)
    if (i % t->shared == 0) {
      char *here = t->pieces + piece_at(p, t, i), *stage = t->stage + piece_at(p, t, i);
      sets[count++] =
          (struct cp_blocks){back ? here : stage, back ? stage : here, block_bytes(p, t)};
    }
  return count;
}

// dK or dV of copied heads: block a of the stage is rank a's share, [rows, 1, dim] fp32; `copies`
// neighbouring ones belong to one head.
static int sum_copies(struct cp_plan *p, const struct tensor *t) {
  const struct cp_memory *memory = p->comm->memory;
  const int64_t n = (int64_t)p->shard.rows * p->problem.dim, bytes = 4 * n;
  const int64_t width = p->problem.dim * cp_elem_bytes(p->problem.dtype);
  float *stage = (float *)t->stage;
  if (memory->copy(stage + p->head * n, bytes, t->pieces + p->head * bytes, bytes, bytes, 1,
                   p->comm->stream))
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
    if (memory->copy(t->whole + h * width, width * p->problem.heads_kv, done, width, width,
                     p->shard.rows, p->comm->stream))
      return -1;
  }
  return 0;
}

// What came out, of pieces [begin, end).
static int unpack(struct cp_plan *p, const struct tensor *out, int n, int begin, int end) {
  const int packed = n && p->copies > 1 ? 1 : n; // dK and dV of copies are summed
  if (pack(p, out, packed, begin, end, true))
    return -1;
  for (int i = packed; i < n && begin < end; i++)
    if (sum_copies(p, &out[i]))
      return -1;
  return 0;
}

// A pass: while piece i is computed, piece i + 1 comes in and piece i - 1 goes out.
struct turn {
  struct cp_plan *p;
  enum attn_pass pass;
  const struct attn_args *args;
  struct tensor in[TENSORS_MAX], out[TENSORS_MAX];
  int n_in, n_out;
  int i;
  bool posted;
};

static int post_turn(struct turn *t) {
  struct cp_plan *p = t->p;
  struct cp_blocks sets[2 * TENSORS_MAX];
  int peers[CP_HEADS_MAX], n = 0;
  for (int a = 0; a < p->grid.heads; a++)
    peers[a] = cp_grid_rank(&p->grid, a, p->context);
  if (t->i + 1 < p->grid.pieces)
    n = add_blocks(p, t->in, t->n_in, t->i + 1, false, sets);
  if (t->i >= 1) {
    t->n_out = tensors_out(p, t->pass, t->args, t->out);
    n += add_blocks(p, t->out, t->n_out, t->i - 1, true, sets + n);
    if (cp_owners_know(p, t->args))
      sets[n++] = cp_owners_meet(p);
  }
  t->posted = n > 0;
  return n ? cp_all_to_all(p->comm, CP_HEADS, peers, p->grid.heads, sets, n) : 0;
}

// Piece i through the ring.
static int attend(const struct turn *t) {
  struct cp_plan *p = t->p;
  const int64_t q = t->i * bytes_of(p, p->shard.context_rows, p->piece_q);
  const int64_t kv_bytes = bytes_of(p, p->shard.context_rows, p->piece_kv);
  const int64_t kv = t->i * p->heads_kv / p->grid.pieces / p->piece_kv * kv_bytes;
  struct attn_args a = *t->args;
  a.k = (char *)p->kv_in.k + kv; // kept by forward for backward, as are v, q and o
  a.v = (char *)p->kv_in.v + kv;
  if (cp_owners_know(p, t->args)) {
    a.owners = &p->owners;
    return cp_ring_forward(p, &a);
  }
  a.q = (char *)p->q_in + q;
  a.o = (char *)p->o_in + q;
  a.lse = t->args->lse + (int64_t)t->i * p->piece_q * p->shard.context_rows;
  if (t->pass == ATTN_FWD)
    return cp_ring_forward(p, &a);
  a.d_o = (char *)p->d_o_in + q;
  a.dq = (char *)p->dq_in + q;
  a.dk = (char *)p->dkv_in.k + kv;
  a.dv = (char *)p->dkv_in.v + kv;
  const struct cp_kv next = {(char *)a.k + kv_bytes, (char *)a.v + kv_bytes};
  return cp_ring_backward_piece(p, &a, t->i + 1 < p->grid.pieces ? &next : NULL);
}

static int wait_turn(const struct turn *t) {
  return t->posted ? t->p->comm->transport->wait(t->p->comm, CP_HEADS) : 0;
}

static int exchange_around(struct cp_plan *p, enum attn_pass pass, const struct attn_args *args) {
  const int last = p->grid.pieces - 1;
  struct turn t = {.p = p, .pass = pass, .args = args, .i = -1};
  if (!cp_owners_know(p, args) && make_q_buffers(p))
    return -1;
  t.n_in = tensors_in(p, pass, args, t.in);
  if (pack(p, t.in, t.n_in, 0, 1, false) || post_turn(&t) ||
      pack(p, t.in, t.n_in, 1, last + 1, false) || wait_turn(&t))
    return -1;
  for (t.i = 0; t.i <= last; t.i++)
    if (post_turn(&t) || attend(&t) || wait_turn(&t))
      return -1;
  return post_turn(&t) || unpack(p, t.out, t.n_out, 0, last) || wait_turn(&t) ||
                 unpack(p, t.out, t.n_out, last, last + 1)
             ? -1
             : 0;
}

int cp_heads_forward(struct cp_plan *p, const struct attn_args *args) {
  return p->grid.heads == 1 ? cp_ring_forward(p, args) : exchange_around(p, ATTN_FWD, args);
}

int cp_heads_backward(struct cp_plan *p, const struct attn_args *args) {
  return p->grid.heads == 1 ? cp_ring_backward(p, args) : exchange_around(p, ATTN_BWD, args);
}
