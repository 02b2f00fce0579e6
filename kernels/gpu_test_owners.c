// gpu_test_owners.c -- part of gpu_test: q and o that several owners hold (attn_args.owners), here in as many
// buffers of one GPU, of whose heads a call has some. Tiles begin anew with an owner, in segments and in the padding
// between them; what the owners have beside a call's heads is NaN, and stays what it is.
#include "gpu_test_case.h"

enum { OWNERS = 3, OWNER_ROWS = 200, KEYS = 700, CUT = 333, HEADS_BEFORE = 2, HEADS_BEHIND = 1 };

// Bytes of a row of an owner, and those before the call's heads and of them.
struct shape {
  size_t row, before, mine;
};

static struct shape shape_of(const struct attn_problem *p) {
  const size_t head = 2 * (size_t)p->dim, mine = head * (size_t)p->heads_q;
  return (struct shape){mine + head * (HEADS_BEFORE + HEADS_BEHIND), head * HEADS_BEFORE, mine};
}

// Rows of q to the owners, or of o from them; of that, what is beside the call's heads must be untouched.
static void move_rows(const struct attn_problem *p, char *whole, const struct pair *owned,
                      bool back) {
  const struct shape s = shape_of(p);
  for (size_t r = 0; r < (size_t)p->rows_q; r++) {
    char *row = (char *)owned[r / OWNER_ROWS].host + r % OWNER_ROWS * s.row;
    memcpy(back ? whole + r * s.mine : row + s.before, back ? row + s.before : whole + r * s.mine,
           s.mine);
    for (size_t i = 0; back && i < s.row; i++)
      if ((i < s.before || i >= s.before + s.mine) && (unsigned char)row[i] != 0xff)
        fail_msg("row %d: another head was written", (int)r);
  }
}

// In one call, or with the keys in two, of which the first leaves fp32 here and the second writes o.
static void run_calls(const struct bench *b, const struct attn_kernel *kernel,
                      const struct attn_owners *owners, bool parts) {
  struct attn_segment keys[2] = {{0, 0, CUT}, {0, CUT, KEYS - CUT}};
  struct attn_plan plan[2];
  const struct pair acc = pair_make(parts ? (size_t)b->n_q * 4 : 4);
  for (int i = 0; i <= parts; i++) {
    struct attn_problem p = b->p;
    struct attn_args a = bench_args(b, true);
    a.owners = owners;
    a.q = a.o = NULL;
    if (parts) {
      const int64_t at = (int64_t)keys[i].pos * p.heads_kv * p.dim;
      p.rows_k = keys[i].len, p.k_seg = &keys[i], p.k_segs = 1, p.like = i ? &plan[0] : NULL;
      a.k = (const uint16_t *)a.k + at, a.v = (const uint16_t *)a.v + at;
      a.o_acc = acc.device, a.resume = i, a.part = i ? ATTN_LAST : ATTN_FIRST;
    }
    assert_int_equal(attn_prepare(&plan[i], kernel, &p), 0);
    assert_int_equal(kernel->forward(&plan[i], &a), 0);
  }
  assert_int_equal(device_sync(), 0);
  for (int i = parts; i >= 0; i--)
    attn_release(&plan[i]);
  pair_free((struct pair *)&acc);
}

static void run_owners(const struct attn_kernel *kernel, const struct attn_problem *p, bool parts) {
  struct pair q[OWNERS], o[OWNERS];
  struct attn_owners owners = {.heads = p->heads_q + HEADS_BEFORE + HEADS_BEHIND,
                               .head = HEADS_BEFORE};
  struct bench b;
  bench_make(&b, p);
  b.p.backward = false;
  for (int i = 0; i < OWNERS; i++) {
    q[i] = pair_make(OWNER_ROWS * shape_of(p).row);
    o[i] = pair_make(OWNER_ROWS * shape_of(p).row);
    owners.q[i] = q[i].device, owners.o[i] = o[i].device;
  }
  move_rows(p, b.t[Q].host, q, false);
  for (int i = 0; i < OWNERS; i++)
    pair_upload(&q[i]);
  run_calls(&b, kernel, &owners, parts);
  for (int i = 0; i < OWNERS; i++)
    pair_download(&o[i]);
  pair_download(&b.t[LSE]);
  move_rows(p, b.t[O].host, o, true);
  bench_expect(&b, kernel, ATTN_FWD, p, parts ? "owners, in parts" : "owners");
  for (int i = 0; i < OWNERS; i++) {
    pair_free(&q[i]);
    pair_free(&o[i]);
  }
  bench_free(&b);
}

static void test_owners(void **state) {
  static const struct attn_segment q_seg[] = {{3, 450, 1},     {4, 50, 65},    {69, 500, 17},
                                              {100, 115, 228}, {340, 343, 50}, {410, 560, 140}};
  const struct attn_kernel *kernel = kernel_of(state);
  const char *why = NULL;
  for (int i = 0; i < 4; i++) {
    struct mask m;
    struct attn_problem p;
    assert_int_equal(case_mask(&m, MASK_CAUSAL, KEYS, 0), 0);
    make_problem(kernel, &m, 1, i % 2 ? 64 : 128, &p);
    p.rows_q = OWNERS * OWNER_ROWS;
    p.q_seg = i < 2 ? q_seg : (struct attn_segment[]){{0, 100, OWNERS * OWNER_ROWS}};
    p.q_segs = i < 2 ? 6 : 1;
    p.owner_rows = OWNER_ROWS;
    p.merges = true;
    if (!(why = attn_why_not(kernel, &p)))
      for (int parts = 0; parts < 2; parts++)
        run_owners(kernel, &p, parts);
    mask_free(&m);
  }
  if (why)
    skip_because(kernel, why);
}

const struct gpu_test gpu_owner_tests[] = {{"owners", test_owners}, {NULL, NULL}};
