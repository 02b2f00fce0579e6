// gpu_test_case.c -- see gpu_test_case.h.
#include "gpu_test_case.h"

enum { GUARD_BYTES = 4096, POOL = 1000003 };

struct gpu_test_where where;

void skip_because(const struct attn_kernel *kernel, const char *why) {
  print_message("%s: %s\n", kernel->name, why);
  skip();
}

const struct attn_kernel *kernel_of(void **state) {
  const struct attn_kernel *kernel = attn_kernels[*(const int *)*state];
  if (!where.arch) {
    print_message("%s\n", device_error());
    skip();
  }
  if (where.emulated && !strcmp(kernel->engine, "cudnn")) {
    print_message("cuDNN is machine code, which is not emulated\n");
    skip();
  }
  const char *why = attn_why_not_on(kernel, where.arch);
  if (why)
    skip_because(kernel, why);
  return kernel;
}

// ---- tensors

struct pair pair_make(size_t bytes) {
  struct pair t = {.bytes = bytes, .host = malloc(bytes + GUARD_BYTES)};
  assert_non_null(t.host);
  assert_int_equal(device_alloc(&t.device, bytes + GUARD_BYTES), 0);
  memset(t.host, 0xff, bytes + GUARD_BYTES);
  assert_int_equal(device_fill(t.device, 0xff, bytes + GUARD_BYTES), 0);
  return t;
}

void pair_upload(const struct pair *t) {
  assert_int_equal(device_upload(t->device, t->host, t->bytes), 0);
}

void pair_download(const struct pair *t) {
  assert_int_equal(device_download(t->host, t->device, t->bytes + GUARD_BYTES), 0);
  for (int i = 0; i < GUARD_BYTES; i++)
    if (((unsigned char *)t->host)[t->bytes + (size_t)i] != 0xff)
      fail_msg("byte %d behind an output was written", i);
}

void pair_free(struct pair *t) {
  free(t->host);
  device_free(t->device);
}

void round_to_host(void *to, const void *from, int64_t n, float less) {
  for (int64_t i = 0; i < n; i++)
    ((uint16_t *)to)[i] = bf16_from_float(((const float *)from)[i] - less);
}

// Normal numbers [n]: those of a pool, from another place in each case. The pool's length is prime, so
// that rows of different cases differ.
static void fill(uint16_t *to, int64_t n) {
  static uint16_t *pool;
  static int64_t cases;
  const int64_t shift = ++cases * 104729;
  if (!pool) {
    pool = malloc(POOL * sizeof *pool);
    assert_non_null(pool);
    tensor_fill_normal(pool, ATTN_BF16, POOL, 11, 0);
  }
  for (int64_t i = 0; i < n;) {
    const int64_t from = (i + shift) % POOL, some = n - i < POOL - from ? n - i : POOL - from;
    memcpy(to + i, pool + from, (size_t)some * sizeof *to);
    i += some;
  }
}

// ---- a problem with its tensors

bool make_problem(const struct attn_kernel *kernel, const struct mask *m, int head, int dim,
                  struct attn_problem *p) {
  static const struct { int q, kv; } heads[] = {{64, 8}, {8, 1}, {64, 64}};
  const int kv = m->heads ? m->heads : heads[head].kv;
  *p = (struct attn_problem){.mask = m,
                             .heads_q = kv * (heads[head].q / heads[head].kv),
                             .heads_kv = kv,
                             .dim = dim,
                             .rows_q = m->seqlen,
                             .rows_k = m->seqlen,
                             .backward = true};
  return attn_why_not(kernel, p) == NULL;
}

void bench_make(struct bench *b, const struct attn_problem *p) {
  const int64_t rows = (int64_t)p->rows_q * p->heads_q;
  b->p = *p;
  b->p.backward = true;
  b->n_q = rows * p->dim;
  b->n_k = (int64_t)p->rows_k * p->heads_kv * p->dim;
  for (int i = 0; i < TENSORS; i++) {
    const int64_t n = i == K || i == V || i == DK || i == DV ? b->n_k : b->n_q;
    b->t[i] = pair_make(i == LSE ? (size_t)rows * 4 : (size_t)n * 2);
    if (i <= D_O) {
      fill(b->t[i].host, n);
      pair_upload(&b->t[i]);
    }
  }
}

void bench_free(struct bench *b) {
  for (int i = 0; i < TENSORS; i++)
    pair_free(&b->t[i]);
}

struct attn_args bench_args(const struct bench *b, bool device) {
#define AT(i) (device ? b->t[i].device : b->t[i].host)
  return (struct attn_args){.q = AT(Q),
                            .k = AT(K),
                            .v = AT(V),
                            .d_o = AT(D_O),
                            .o = AT(O),
                            .lse = AT(LSE),
                            .dq = AT(DQ),
                            .dk = AT(DK),
                            .dv = AT(DV)};
#undef AT
}

int bench_run(struct bench *b, const struct attn_kernel *kernel) {
  struct attn_plan plan;
  const struct attn_args a = bench_args(b, true);
  int status = attn_prepare(&plan, kernel, &b->p);
  status = status ? status : kernel->forward(&plan, &a);
  status = status ? status : kernel->backward(&plan, &a);
  if (!status && device_sync())
    fail_msg("%s: %s", kernel->name, device_error());
  attn_release(&plan);
  for (int i = O; !status && i < TENSORS; i++)
    pair_download(&b->t[i]);
  return status;
}

void bench_pass(struct bench *b, struct attn_plan *plan, enum attn_pass pass) {
  const struct attn_args a = bench_args(b, true);
  assert_int_equal(
      pass == ATTN_BWD ? plan->kernel->backward(plan, &a) : plan->kernel->forward(plan, &a), 0);
  assert_int_equal(device_sync(), 0);
  for (int i = pass == ATTN_BWD ? DQ : O; i <= (pass == ATTN_BWD ? DV : LSE); i++)
    pair_download(&b->t[i]);
}

void bench_expect(const struct bench *b, const struct attn_kernel *kernel, enum attn_pass pass,
                  const struct attn_problem *truth, const char *what) {
  struct verify_report report = {0};
  const struct attn_args a = bench_args(b, false);
  if (!check_outputs(truth, &a, pass, 3, &report))
    fail_msg("%s, %s, %s, heads %d:%d, dim %d, rows %d, keys %d: %s: %lld of %lld rows wrong, "
             "error %.3g",
             kernel->name, mask_name(truth->mask->kind), what, truth->heads_q, truth->heads_kv,
             truth->dim, truth->rows_q, truth->rows_k, pass == ATTN_BWD ? "backward" : "forward",
             (long long)report.wrong, (long long)report.rows, report.err_max);
}

void expect_right(const struct attn_kernel *kernel, const struct attn_problem *p, int variant) {
  struct bench b;
  char what[32];
  snprintf(what, sizeof what, "variant %d", variant);
  bench_make(&b, p);
  if (bench_run(&b, kernel))
    fail_msg("%s, %s %s, heads %d:%d, dim %d, length %d: %s", kernel->name,
             mask_name(p->mask->kind), what, p->heads_q, p->heads_kv, p->dim, p->rows_q,
             attn_error());
  bench_expect(&b, kernel, ATTN_FWD, &b.p, what);
  bench_expect(&b, kernel, ATTN_BWD, &b.p, what);
  bench_free(&b);
}
