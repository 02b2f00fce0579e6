// cp_test_kernel.h -- a plain attention kernel, exact to fp32 rounding, that counts how often each visible
// pair was computed; and one case run with it. Header only: cp_test.c and fault_test.c include it.
#ifndef LONGCA_CP_TEST_KERNEL_H
#define LONGCA_CP_TEST_KERNEL_H

#include "cp_test_case.h"

#define LIMIT 1e-5 // fp32, relative to the tensor's largest element

static uint8_t *painted[2]; // [pass][seqlen][seqlen]
static int32_t painted_seqlen;
static _Thread_local bool paints; // this rank has the first share of the heads
static enum {
  NO_MUTATION,
  PAD_IS_REAL,
  STALE_KV,
  WRONG_RETURN,
  COPIES_NOT_SUMMED,
  HOP_SKIPPED,
  BLOCKS_SWAPPED,
  STALE_GROUP,
  STALE_PIECE,
  WRONG_PIECE,
  PACKED_OVER
} mutation;

struct plain {
  int32_t *pos_q, *pos_k;
};

static void set_positions(int32_t *pos, int32_t rows, const struct attn_segment *seg, int32_t segs,
                          bool last_pad) {
  for (int32_t r = 0; r < rows; r++)
    pos[r] = -1;
  for (int32_t s = 0; s < segs; s++)
    for (int32_t i = 0; i < seg[s].len; i++)
      pos[seg[s].row + i] = seg[s].pos + i;
  for (int32_t r = 1; last_pad && r < rows; r++) // a slot's padding taken for one more token
    if (pos[r] < 0 && pos[r - 1] >= 0) {
      pos[r] = pos[r - 1];
      break;
    }
}

static int plain_prepare(struct attn_plan *plan) {
  const struct attn_problem *p = &plan->problem;
  struct plain *st = plan->state = calloc(1, sizeof *st);
  st->pos_q = malloc(sizeof(int32_t) * (size_t)p->rows_q);
  st->pos_k = malloc(sizeof(int32_t) * (size_t)p->rows_k);
  set_positions(st->pos_q, p->rows_q, p->q_seg, p->q_segs, false);
  set_positions(st->pos_k, p->rows_k, p->k_seg, p->k_segs, mutation == PAD_IS_REAL);
  plan->workspace_bytes = 4 * (int64_t)(p->rows_q + p->rows_k);
  plan->keeps_dq = true;
  return 0;
}

static void plain_release(struct attn_plan *plan) {
  struct plain *st = plan->state;
  if (st)
    free(st->pos_q), free(st->pos_k);
  free(st);
}

static bool sees(const struct attn_plan *plan, int32_t r, int32_t j, enum attn_pass pass) {
  const struct plain *st = plan->state;
  const int32_t q = st->pos_q[r], k = st->pos_k[j];
  if (q < 0 || k < 0 || !mask_allows(plan->problem.mask, 0, q, k))
    return false;
  if (paints && pass < 2)
    __atomic_add_fetch(&painted[pass][(int64_t)q * painted_seqlen + k], 1, __ATOMIC_RELAXED);
  return true;
}

static double dot(const float *a, const float *b) {
  double sum = 0;
  for (int i = 0; i < DIM; i++)
    sum += (double)a[i] * b[i];
  return sum;
}

static int plain_forward(struct attn_plan *plan, const struct attn_args *a) {
  const struct attn_problem *p = &plan->problem;
  const struct plain *st = plan->state;
  const float *k = a->k, *v = a->v;
  for (int h = 0; h < p->heads_q; h++)
    for (int32_t r = 0; r < p->rows_q; r++) {
      if (st->pos_q[r] < 0)
        continue;
      const int kv = h / (p->heads_q / p->heads_kv);
      const int64_t at = ((int64_t)r * p->heads_q + h) * DIM;
      const float *q = (const float *)a->q + at;
      float *o = (attn_writes_o(a) ? (float *)a->o : a->o_acc) + at,
            *lse = a->lse + (int64_t)h * p->rows_q + r;
      if (a->owners) {
        const struct attn_owners *w = a->owners;
        const int64_t there = ((int64_t)(r % p->owner_rows) * w->heads + w->head + h) * DIM;
        q = (const float *)w->q[r / p->owner_rows] + there;
        o = attn_writes_o(a) ? (float *)w->o[r / p->owner_rows] + there : o;
      }
      double max = a->resume ? *lse : -INFINITY, sum = max > -INFINITY, acc[DIM];
      for (int i = 0; i < DIM; i++)
        acc[i] = sum ? a->o_acc[at + i] : 0;
      for (int32_t j = 0; j < p->rows_k; j++) {
        // Painted once a pair, by the first head.
        const bool seen = h == 0 ? sees(plan, r, j, ATTN_FWD) : sees(plan, r, j, (enum attn_pass)2);
        if (!seen)
          continue;
        const int64_t key = ((int64_t)j * p->heads_kv + kv) * DIM;
        const double s = dot(q, k + key) / sqrt(DIM), top = s > max ? s : max;
        const double old = exp(max - top), now = exp(s - top);
        for (int i = 0; i < DIM; i++)
          acc[i] = acc[i] * old + now * v[key + i];
        sum = sum * old + now;
        max = top;
      }
      for (int i = 0; i < DIM; i++)
        o[i] = (float)(sum == 0 ? 0 : acc[i] / sum);
      *lse = (float)(sum == 0 ? -INFINITY : max + log(sum));
    }
  return 0;
}

// dQ is kept from the first part of a backward to the last.
static int plain_backward(struct attn_plan *plan, const struct attn_args *a) {
  static _Thread_local float *kept;
  const struct attn_problem *p = &plan->problem;
  const struct plain *st = plan->state;
  const float *q = a->q, *k = a->k, *v = a->v, *o = a->o, *d_o = a->d_o;
  float *dq, *dk = a->accumulate ? a->dk_acc : a->dk;
  float *dv = a->accumulate ? a->dv_acc : a->dv;
  const size_t nq = (size_t)p->rows_q * (size_t)p->heads_q * DIM,
               nk = (size_t)p->rows_k * (size_t)p->heads_kv * DIM;
  if (!a->accumulate)
    memset(dk, 0, 4 * nk), memset(dv, 0, 4 * nk);
  if (a->accumulate && a->dq_acc) {
    attn_error_set(false, "dQ is asked for in fp32 of a kernel that keeps it");
    return -1;
  }
  if (a->part == ATTN_ALONE || a->part == ATTN_FIRST)
    free(kept), kept = calloc(nq ? nq : 1, 4);
  if (!(dq = kept)) {
    attn_error_set(false, "part %d of a backward that has not begun", a->part);
    return -1;
  }
  for (int h = 0; h < p->heads_q; h++)
    for (int32_t r = 0; r < p->rows_q; r++) {
      if (st->pos_q[r] < 0)
        continue;
      const int kv = h / (p->heads_q / p->heads_kv);
      const int64_t at = ((int64_t)r * p->heads_q + h) * DIM;
      const double delta = dot(o + at, d_o + at), lse = a->lse[(int64_t)h * p->rows_q + r];
      for (int32_t j = 0; j < p->rows_k; j++) {
        const bool seen = h == 0 ? sees(plan, r, j, ATTN_BWD) : sees(plan, r, j, (enum attn_pass)2);
        if (!seen)
          continue;
        const int64_t key = ((int64_t)j * p->heads_kv + kv) * DIM;
        const double prob = exp(dot(q + at, k + key) / sqrt(DIM) - lse);
        const double ds = prob * (dot(d_o + at, v + key) - delta) / sqrt(DIM);
        for (int i = 0; i < DIM; i++) {
          dq[at + i] += (float)(ds * k[key + i]);
          dk[key + i] += (float)(ds * q[at + i]);
          dv[key + i] += (float)(prob * d_o[at + i]);
        }
      }
    }
  if (a->part == ATTN_ALONE || a->part == ATTN_LAST) {
    memcpy(a->dq, kept, 4 * nq);
    free(kept), kept = NULL;
  }
  return 0;
}

static const struct attn_kernel plain = {.name = "plain",
                                         .rep = "none",
                                         .engine = "test",
                                         .place = ATTN_HOST,
                                         .prepare = plain_prepare,
                                         .forward = plain_forward,
                                         .backward = plain_backward,
                                         .release = plain_release};

static void note_painter(struct cp_plan *plan, struct run *run, enum attn_pass pass) {
  paints = plan->head == 0;
}

// ---- a case ---------------------------------------------------------------------------------

static const int32_t lengths_main[] = {1, 2, 47, 1, 7, 3}; // one giant among tiny ones, 61 in all

static void fail_case(const struct run *run, int ranks, const char *what) {
  print_message("%s, %s, %d ranks, S=%d, heads %d:%d: %s\n", run->schedule->name,
                mask_name(run->whole->mask.kind), ranks, run->whole->mask.seqlen,
                run->whole->heads_q, run->whole->heads_kv, what);
  fail();
}

// Once in each piece of the first share of the heads.
static void check_painted(const struct run *run, int ranks, int pieces) {
  const struct mask *m = &run->whole->mask;
  for (int pass = 0; pass < (run->forward_only ? 1 : 2); pass++)
    for (int32_t q = 0; q < m->seqlen; q++)
      for (int32_t k = 0; k < m->seqlen; k++)
        if (painted[pass][(int64_t)q * m->seqlen + k] != pieces * mask_allows(m, 0, q, k)) {
          char text[128];
          snprintf(text, sizeof text, "%s: pair (%d, %d) was computed %d times",
                   pass ? "bwd" : "fwd", q, k, painted[pass][(int64_t)q * m->seqlen + k]);
          fail_case(run, ranks, text);
        }
}

// Runs, and returns the worst error; NaN counts. -1: refused.
static double run_case(struct run *run, int ranks, const char **tensor) {
  struct attn_problem p = whole_problem(run->whole);
  p.backward = !run->forward_only;
  struct cp_grid grid;
  if (cp_why_not(run->schedule, run->kernel, &p, ranks, &run->wish, &grid))
    return -1;
  const bool counts = run->kernel->forward == plain_forward;
  const size_t cells = (size_t)p.mask->seqlen * (size_t)p.mask->seqlen;
  painted_seqlen = p.mask->seqlen;
  for (int i = 0; counts && i < 2; i++)
    painted[i] = calloc(1, cells);
  run->planned = run->planned ? run->planned : note_painter;
  run->bytes_max = 0;
  outputs_make(&run->out, run->whole);
  if (cp_loopback.run(ranks, 20, run_body, run))
    fail_case(run, ranks, attn_error());
  const double error = worst_error(run, tensor);
  if (counts && !run->mutation)
    check_painted(run, ranks, run->pieces);
  outputs_free(&run->out);
  for (int i = 0; counts && i < 2; i++)
    free(painted[i]);
  return error;
}

#endif
