// clean_test.c -- every device kernel under the sanitizer of the emulated GPU (README.md): right,
// and without a report. Small problems of every mask: forward and backward, afresh and continued,
// and deterministic.
//
// cmocka passes what is right; reports make the program fail at its end, and stand in its log.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../../src/check.h"
#include "../../src/device.h"
#include "../../src/tensor.h"
#include "../attn.h"
#include "../rep/cases.h"

enum { Q, K, V, D_O, O, LSE, DQ, DK, DV, O_ACC, DQ_ACC, DK_ACC, DV_ACC, TENSORS, KERNELS_MAX = 64 };

struct tensors {
  void *host[TENSORS], *device[TENSORS];
  size_t bytes[TENSORS];
};

static void make(struct tensors *t, const struct attn_problem *p) {
  const size_t q = (size_t)p->rows_q * (size_t)p->heads_q * (size_t)p->dim;
  const size_t k = (size_t)p->rows_k * (size_t)p->heads_kv * (size_t)p->dim;
  for (int i = 0; i < TENSORS; i++) {
    const bool keys = i == K || i == V || i == DK || i == DV || i == DK_ACC || i == DV_ACC;
    t->bytes[i] = (keys ? k : q) * (i >= O_ACC ? 4 : 2);
    if (i == LSE)
      t->bytes[i] = (size_t)p->rows_q * (size_t)p->heads_q * 4;
    t->host[i] = calloc(1, t->bytes[i]);
    assert_non_null(t->host[i]);
    assert_int_equal(device_alloc(&t->device[i], t->bytes[i]), 0);
    if (i <= D_O)
      tensor_fill_normal(t->host[i], ATTN_BF16, (int64_t)t->bytes[i] / 2, 7, i);
    if (i < O || i > O_ACC) // what accumulates begins at 0; other outputs are NaN on the device
      assert_int_equal(device_upload(t->device[i], t->host[i], t->bytes[i]), 0);
  }
}
static void end(struct tensors *t) {
  for (int i = 0; i < TENSORS; i++) {
    free(t->host[i]);
    device_free(t->device[i]);
  }
}
static struct attn_args args_of(void *const at[TENSORS]) {
  return (struct attn_args){.q = at[Q],
                            .k = at[K],
                            .v = at[V],
                            .d_o = at[D_O],
                            .o = at[O],
                            .lse = at[LSE],
                            .dq = at[DQ],
                            .dk = at[DK],
                            .dv = at[DV],
                            .dq_acc = at[DQ_ACC],
                            .dk_acc = at[DK_ACC],
                            .dv_acc = at[DV_ACC]};
}

// Both passes; then again into fp32, added to what is there.
static void expect_right(const struct attn_kernel *kernel, const struct attn_problem *p) {
  struct tensors t;
  struct attn_plan plan;
  struct verify_report report;
  make(&t, p);
  struct attn_args a = args_of(t.device);
  const struct attn_args host = args_of(t.host);
  if (attn_prepare(&plan, kernel, p) || kernel->forward(&plan, &a) || kernel->backward(&plan, &a) ||
      device_sync())
    fail_msg("%s, %s: %s", kernel->name, mask_name(p->mask->kind), attn_error());
  for (int i = O; i <= DV; i++)
    assert_int_equal(device_download(t.host[i], t.device[i], t.bytes[i]), 0);
  for (int pass = ATTN_FWD; pass <= ATTN_BWD; pass++)
    if (!check_outputs(p, &host, (enum attn_pass)pass, 3, &report))
      fail_msg("%s, %s, pass %d: error %g", kernel->name, mask_name(p->mask->kind), pass,
               report.err_max);
  if (strcmp(kernel->name, "naive")) { // which says at run time that it does not
    a.o_acc = t.device[O_ACC];
    assert_int_equal(kernel->forward(&plan, &a), 0);
    a.resume = true;
    assert_int_equal(kernel->forward(&plan, &a), 0);
    a.o_acc = NULL;
    a.accumulate = true;
    assert_int_equal(kernel->backward(&plan, &a), 0);
  }
  attn_release(&plan);
  end(&t);
}

// The last `rows` queries of a mask against all keys, deterministic and not. Returns how many it takes.
static int run_case(const struct attn_kernel *kernel, enum mask_kind kind, int32_t length,
                    int variant, int32_t rows) {
  struct mask m;
  int ran = 0;
  assert_int_equal(case_mask(&m, kind, length, variant), 0);
  const struct attn_segment q = {0, length - rows, rows};
  struct attn_problem p = {.mask = &m,
                           .heads_kv = m.heads ? m.heads : 1,
                           .dim = kind % 2 ? 64 : 128,
                           .rows_q = rows,
                           .rows_k = length,
                           .q_seg = rows < length ? &q : NULL,
                           .q_segs = rows < length,
                           .backward = true};
  p.heads_q = (1 + (int)kind % 3) * p.heads_kv;
  for (int deterministic = 0; deterministic < 2; deterministic++) {
    p.deterministic = deterministic;
    if (!attn_why_not(kernel, &p)) {
      expect_right(kernel, &p);
      ran++;
    }
  }
  mask_free(&m);
  return ran;
}

static void test_clean(void **state) {
  const struct attn_kernel *kernel = attn_kernels[*(const int *)*state];
  // A compilation a mask, and a block of threads a row.
  const bool slow = !strncmp(kernel->name, "flex", 4) || !strcmp(kernel->name, "naive");
  static const int32_t lengths[] = {129, 200, 65, 321};
  int ran = 0;
  for (int kind = 0; kind < MASK_KINDS; kind += slow ? 5 : 1)
    for (int v = 0, done = 0; v < CASE_VARIANTS && !done; v++) { // the first variant that it takes
      const int32_t length = strcmp(kernel->name, "naive") ? lengths[(kind + v) % 4] : 17;
      done = run_case(kernel, (enum mask_kind)kind, length, (kind + v) % CASE_VARIANTS, length);
      ran += done;
    }
  if (!strcmp(kernel->engine, "wgmma")) // few queries, which the forward cuts into parts
    ran += run_case(kernel, MASK_FULL, 1300, 0, 65);
  print_message("  %s: %d cases\n", kernel->name, ran);
  assert_true(ran > 0);
}

int main(void) {
  static struct CMUnitTest tests[KERNELS_MAX];
  static int places[KERNELS_MAX];
  const char *only = getenv("LONGCA_TEST_KERNEL");
  size_t n = 0;
  if (device_open(0))
    return 1;
  for (int k = 0; attn_kernels[k]; k++)
    if (attn_kernels[k]->place == ATTN_DEVICE && strcmp(attn_kernels[k]->engine, "cudnn") != 0 &&
        (!only || !strcmp(only, attn_kernels[k]->name))) {
      places[n] = k;
      tests[n] = (struct CMUnitTest){
          .name = attn_kernels[k]->name, .test_func = test_clean, .initial_state = &places[n]};
      n++;
    }
  return _cmocka_run_group_tests("clean", tests, n, NULL, NULL);
}
