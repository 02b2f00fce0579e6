// measure_test.c -- real kernels measured for real, and kernels that lie, which must not get a row.
#define _GNU_SOURCE
#include "measure.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "mask_draw.h"
#include "place.h"
#include "tensor.h"

static struct point base(enum mask_kind mask, enum attn_pass pass) {
  struct point p = {.exp = "test",
                    .profile = "cpu",
                    .kernel = "flex",
                    .mask = mask,
                    .pass = pass,
                    .heads_q = 4,
                    .heads_kv = 2,
                    .dim = 64,
                    .seqlen = 129,
                    .window = 17,
                    .block = 43,
                    .ratio = 0.5,
                    .seed = 42,
                    .draw = 1,
                    .warmup = 1,
                    .samples_min = 6,
                    .samples_max = 8,
                    .seconds = 0.01,
                    .limit_s = 60};
  point_normalise(&p);
  return p;
}

static struct row measured(const struct point *p) {
  struct row row;
  point_to_row(p, &row);
  if (measure_point(p, &row))
    fail_msg("error of the harness: %s", row.reason);
  return row;
}

static void every_mask_and_pass_gets_an_honest_row(void **state) {
  for (int kind = 0; kind <= MASK_BLOCK_CAUSAL_DOCUMENT; kind++)
    for (int pass = ATTN_FWD; pass <= ATTN_BWD; pass++) {
      const struct point p = base((enum mask_kind)kind, (enum attn_pass)pass);
      const struct row r = measured(&p);
      if (strcmp(r.status, "ok") != 0)
        fail_msg("%s: %s: %s", r.mask, r.status, r.reason);
      struct mask m;
      char err[256];
      const struct mask_recipe recipe = {
          .kind = p.mask, .seqlen = p.seqlen, .window = p.window, .block = p.block};
      assert_int_equal(mask_draw_nth(&m, 42, 1, &recipe, err, sizeof err), 0);
      assert_true(r.area == mask_area(&m) && r.area > 0);
      assert_true(r.flop == 4 * r.area * 4 * 64 * (pass == ATTN_BWD ? 2.5 : 1));
      assert_true(isnan(r.flop_nominal));
      assert_true(mask_has_docs(p.mask) ? r.docs == m.docs : isnan(r.docs));
      mask_free(&m);
      assert_true(r.n >= 6 && r.n <= 8);
      assert_true(r.time_us > 0 && r.time_us_low <= r.time_us && r.time_us <= r.time_us_high);
      assert_true(r.time_us_q20 <= r.time_us && r.time_us <= r.time_us_q80);
      assert_true(r.time_us_q80 <= r.time_us_p99);
      assert_true(fabs(r.tflop_s / (r.flop / r.time_us * 1e-6) - 1) < 1e-5);
      assert_true(r.peak_pct > 0 && r.peak_pct <= 100);
      assert_true(r.wrong == 0 && r.err_max >= 0 && r.err_max < 0.05 && r.err_cos < 1e-3);
      assert_true(r.prep_us > 0 && r.prep_bytes > 0);
      const double q = 129 * 4 * 64 * 2, k = 129 * 2 * 64 * 2, lse = 129 * 4 * 4;
      const double tensors = pass == ATTN_BWD ? 4 * q + 4 * k + lse : 2 * q + 2 * k + lse;
      assert_true(r.account_bytes >= tensors + r.prep_bytes);
      assert_true(isnan(r.comm_bytes) && isnan(r.sm_mhz_median) && isnan(r.throttled));
      assert_string_equal(r.engine, "cpu");
    }
}

static void block_sparse_counts_true_and_nominal_work(void **state) {
  struct point p = base(MASK_UNIFORM_BLOCK_SPARSE, ATTN_FWD);
  snprintf(p.kernel, sizeof p.kernel, "flashinfer");
  p.block = 64;
  p.seqlen = 320; // 5 blocks, half of which is 2
  const struct row r = measured(&p);
  assert_string_equal(r.status, "ok");
  assert_true(r.area == 320 * 128);
  assert_true(r.flop_nominal == 4.0 * 320 * 320 * 0.5 * 4 * 64);
  assert_true(r.block == 64 && r.ratio == 0.5);
}

static void memory_is_that_of_the_point(void **state) {
  // In a child: VmHWM never falls, so only a fresh process can tell.
  for (int i = 0; i < 2; i++) {
    const pid_t child = fork();
    if (child == 0) {
      struct point p = base(MASK_CAUSAL, ATTN_FWD);
      snprintf(p.kernel, sizeof p.kernel, i ? "naive" : "fa2");
      p.seqlen = 1024;
      p.heads_q = p.heads_kv = 8;
      const struct row r = measured(&p);
      const double tensors = 4.0 * 1024 * 8 * 64 * 2, scores = 1024.0 * 1024 * 4;
      _exit(r.account_bytes >= tensors && r.peak_mem_bytes > 0.9 * tensors &&
                    (!i || r.peak_mem_bytes > scores) && r.peak_mem_bytes < tensors + 24 * scores
                ? 0
                : 1);
    }
    int status;
    waitpid(child, &status, 0);
    assert_int_equal(status, 0);
  }
}

static void refusals_are_rows_with_a_sentence(void **state) {
  struct point p = base(MASK_GLOBAL_SLIDING_WINDOW, ATTN_FWD);
  snprintf(p.kernel, sizeof p.kernel, "fa2");
  struct row r = measured(&p);
  assert_string_equal(r.status, "unsupported");
  assert_non_null(strstr(r.reason, "band"));
  assert_true(isnan(r.time_us) && isnan(r.err_max) && isnan(r.peak_mem_bytes));
  p = base(MASK_BLOCK_CAUSAL_DOCUMENT, ATTN_FWD);
  p.block = 50; // 129 is no multiple
  r = measured(&p);
  assert_string_equal(r.status, "unsupported");
  assert_true(strlen(r.reason) > 10);
  snprintf(p.kernel, sizeof p.kernel, "flex");
  p.place = ATTN_DEVICE;
  if (device_count() == 0) {
    r = measured(&p);
    assert_string_not_equal(r.status, "ok");
    assert_true(strlen(r.reason) > 10);
  }
}

static void lack_of_memory_is_oom(void **state) {
#ifdef __SANITIZE_ADDRESS__
  print_message("AddressSanitizer's shadow does not fit under a memory limit\n");
  skip();
#endif
  const pid_t child = fork();
  if (child == 0) {
    const struct rlimit limit = {64 << 20, 64 << 20};
    struct point p = base(MASK_CAUSAL, ATTN_FWD);
    snprintf(p.kernel, sizeof p.kernel, "naive");
    p.seqlen = 8192; // 256 MiB of scores a head
    p.heads_q = p.heads_kv = 1;
    if (setrlimit(RLIMIT_DATA, &limit))
      _exit(2);
    const struct row r = measured(&p);
    _exit(strcmp(r.status, "oom") || strlen(r.reason) < 10 || !isnan(r.time_us));
  }
  int status;
  waitpid(child, &status, 0);
  assert_int_equal(status, 0);
}

// ---- kernels that lie -----------------------------------------------------------------------

static int calls;

static int honest(struct attn_plan *plan, const struct attn_args *a) {
  struct attn_plan inner;
  const int bad = attn_prepare(&inner, attn_find("fa2", ATTN_HOST), &plan->problem) ||
                  inner.kernel->forward(&inner, a);
  attn_release(&inner);
  return bad;
}
static int nothing(struct attn_plan *plan, const struct attn_args *a) { return 0; }
static int one_element_off(struct attn_plan *plan, const struct attn_args *a) {
  const int bad = honest(plan, a);
  ((uint16_t *)a->o)[64 * 4 * 128 + 5] =
      bf16_from_float(3); // the last row, which is always checked
  return bad;
}
static int lse_in_bits(struct attn_plan *plan, const struct attn_args *a) {
  const int bad = honest(plan, a);
  for (int i = 0; i < 4 * 129; i++)
    a->lse[i] *= 1.442695f;
  return bad;
}
static int only_once(struct attn_plan *plan, const struct attn_args *a) {
  return calls++ ? 0 : honest(plan, a);
}
static int fails_later(struct attn_plan *plan, const struct attn_args *a) {
  if (!calls++)
    return honest(plan, a);
  attn_error_set(false, "the stream is gone");
  return -1;
}
static int starves(struct attn_plan *plan, const struct attn_args *a) {
  attn_error_set(true, "out of memory: 3 GiB");
  return -1;
}

static struct row lie(int (*forward)(struct attn_plan *, const struct attn_args *), int want) {
  const struct attn_kernel kernel = {
      .name = "liar", .rep = "band", .engine = "cpu", .forward = forward};
  struct point p = base(MASK_CAUSAL, ATTN_FWD);
  struct row row;
  calls = 0;
  point_to_row(&p, &row);
  assert_int_equal(measure_kernel(&p, &kernel, &row), want);
  return row;
}

static void wrong_outputs_get_no_time(void **state) {
  int (*const liars[])(struct attn_plan *, const struct attn_args *) = {nothing, one_element_off,
                                                                        lse_in_bits};
  for (size_t i = 0; i < sizeof liars / sizeof *liars; i++) {
    const struct row r = lie(liars[i], 0);
    assert_string_equal(r.status, "wrong");
    assert_non_null(strstr(r.reason, "checked rows are off"));
    assert_true(isnan(r.time_us) && isnan(r.tflop_s) && isnan(r.flop) && isnan(r.wrong));
  }
  assert_string_equal(lie(honest, 0).status, "ok");
}

static void impossible_rates_stop_the_harness(void **state) {
  const struct row r = lie(only_once, -1);
  assert_non_null(strstr(r.reason, "above the peak"));
}

static void failing_calls_say_their_error(void **state) {
  struct row r = lie(fails_later, 0);
  assert_string_equal(r.status, "crash");
  assert_string_equal(r.reason, "the stream is gone");
  r = lie(starves, 0);
  assert_string_equal(r.status, "oom");
  assert_string_equal(r.reason, "out of memory: 3 GiB");
  assert_true(isnan(r.time_us));
}

int main(void) {
  place_of(ATTN_HOST);
  const struct CMUnitTest tests[] = {
      // First those that fork: OpenMP's threads would not survive it.
      cmocka_unit_test(memory_is_that_of_the_point),
      cmocka_unit_test(lack_of_memory_is_oom),
      cmocka_unit_test(every_mask_and_pass_gets_an_honest_row),
      cmocka_unit_test(block_sparse_counts_true_and_nominal_work),
      cmocka_unit_test(refusals_are_rows_with_a_sentence),
      cmocka_unit_test(wrong_outputs_get_no_time),
      cmocka_unit_test(impossible_rates_stop_the_harness),
      cmocka_unit_test(failing_calls_say_their_error),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
