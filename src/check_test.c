// check_test.c -- the gate before every timing lets the right through and nothing else.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "check.h"
#include "ref.h"
#include "tensor.h"

// Outputs of the reference itself, rounded to dtype, in the place of a kernel's.
struct outputs {
  struct mask mask;
  struct attn_problem p;
  struct attn_args a;
  int64_t n_q, n_k;
};

static void round_to(void *out, enum attn_dtype dtype, const double *x, int64_t n) {
  for (int64_t i = 0; i < n; i++) {
    if (dtype == ATTN_BF16)
      ((uint16_t *)out)[i] = bf16_from_float((float)x[i]);
    else
      ((float *)out)[i] = (float)x[i];
  }
}

static void *filled(enum attn_dtype dtype, int64_t n, uint64_t stream) {
  void *x = tensor_alloc(dtype, n);
  assert_non_null(x);
  tensor_fill_normal(x, dtype, n, 7, stream);
  return x;
}

static void make(struct outputs *t, enum attn_dtype dtype, int32_t length, int32_t window) {
  char err[128];
  assert_int_equal(mask_init(&t->mask, MASK_SLIDING_WINDOW_CAUSAL, length, NULL, 0, window, 0, 0,
                             err, sizeof err),
                   0);
  t->p = (struct attn_problem){.mask = &t->mask,
                               .dtype = dtype,
                               .heads_q = 4,
                               .heads_kv = 2,
                               .dim = 64,
                               .rows_q = length,
                               .rows_k = length};
  t->n_q = (int64_t)length * 4 * 64, t->n_k = (int64_t)length * 2 * 64;
  t->a = (struct attn_args){.q = filled(dtype, t->n_q, 0),
                            .k = filled(dtype, t->n_k, 1),
                            .v = filled(dtype, t->n_k, 2),
                            .d_o = filled(dtype, t->n_q, 3),
                            .o = tensor_alloc(dtype, t->n_q),
                            .lse = tensor_alloc(ATTN_FP32, length * 4),
                            .dq = tensor_alloc(dtype, t->n_q),
                            .dk = tensor_alloc(dtype, t->n_k),
                            .dv = tensor_alloc(dtype, t->n_k)};
  double *x = malloc(sizeof *x * (size_t)(2 * t->n_q + 2 * t->n_k));
  double *lse = x + t->n_q, *dk = lse + t->n_q, *dv = dk + t->n_k;
  assert_int_equal(ref_forward(&t->p, &t->a, x, lse), 0);
  round_to(t->a.o, dtype, x, t->n_q);
  round_to(t->a.lse, ATTN_FP32, lse, (int64_t)length * 4);
  assert_int_equal(ref_backward(&t->p, &t->a, x, dk, dv), 0);
  round_to(t->a.dq, dtype, x, t->n_q);
  round_to(t->a.dk, dtype, dk, t->n_k);
  round_to(t->a.dv, dtype, dv, t->n_k);
  free(x);
}

static void drop(struct outputs *t) {
  const void *all[] = {t->a.q,   t->a.k,  t->a.v,  t->a.d_o, t->a.o,
                       t->a.lse, t->a.dq, t->a.dk, t->a.dv};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++)
    free((void *)all[i]);
  mask_free(&t->mask);
}

static bool right(struct outputs *t, enum attn_pass pass) {
  struct verify_report report;
  return check_outputs(&t->p, &t->a, pass, 42, &report);
}

static void test_right_passes(void **state) {
  (void)state;
  const int32_t lengths[] = {1, 17, 129, 1000}; // the last is sampled
  for (size_t i = 0; i < 4; i++)
    for (int dtype = ATTN_BF16; dtype <= ATTN_FP32; dtype++) {
      struct outputs t;
      make(&t, dtype, lengths[i], 32);
      assert_true(right(&t, ATTN_FWD) && right(&t, ATTN_BWD));
      drop(&t);
    }
}

static void test_poison_fails(void **state) {
  (void)state;
  for (int32_t length = 129; length <= 1000; length += 871) {
    struct outputs t;
    make(&t, ATTN_BF16, length, 32);
    // One element anywhere, sampled row or not.
    uint16_t *element = (uint16_t *)t.a.o + t.n_q / 2 + 3, value = *element;
    tensor_poison(element, ATTN_BF16, 1);
    assert_false(right(&t, ATTN_FWD));
    *element = value;
    const float lse = t.a.lse[length + 5];
    tensor_poison(t.a.lse + length + 5, ATTN_FP32, 1);
    assert_false(right(&t, ATTN_FWD));
    t.a.lse[length + 5] = lse;
    assert_true(right(&t, ATTN_FWD));
    tensor_poison(t.a.o, ATTN_BF16, t.n_q);
    assert_false(right(&t, ATTN_FWD));
    void *gradients[] = {t.a.dq, t.a.dk, t.a.dv};
    for (int i = 0; i < 3; i++) {
      const int64_t n = i ? t.n_k : t.n_q;
      uint16_t *kept = malloc((size_t)n * 2);
      memcpy(kept, gradients[i], (size_t)n * 2);
      tensor_poison(gradients[i], ATTN_BF16, n);
      assert_false(right(&t, ATTN_BWD));
      memcpy(gradients[i], kept, (size_t)n * 2);
      tensor_poison((uint16_t *)gradients[i] + n / 2 + 3, ATTN_BF16, 1);
      assert_false(right(&t, ATTN_BWD));
      memcpy(gradients[i], kept, (size_t)n * 2);
      free(kept);
    }
    drop(&t);
  }
}

// A kernel that sees one key too many (window 33 for 32) must not pass, in either dtype or regime.
static void test_off_by_one_fails(void **state) {
  (void)state;
  for (int32_t length = 129; length <= 1000; length += 871)
    for (int dtype = ATTN_BF16; dtype <= ATTN_FP32; dtype++) {
      struct outputs t, other;
      make(&t, dtype, length, 32);
      make(&other, dtype, length, 33);
      other.p.mask = &t.mask;
      assert_false(right(&other, ATTN_FWD));
      assert_false(right(&other, ATTN_BWD));
      drop(&t), drop(&other);
    }
}

static void test_lse(void **state) {
  (void)state;
  const double want[] = {0, -INFINITY};
  const float good[] = {1e-6f, -INFINITY}, bad[] = {NAN, -1e30f};
  struct verify_report report = {0};
  verify_lse(&report, good, want, 2, 1e-5);
  assert_int_equal(report.wrong, 0);
  verify_lse(&report, bad, want, 2, 1e-5);
  assert_int_equal(report.wrong, 2);
  struct verify_report none = {0};
  assert_false(verify_finish(&none)); // nothing compared is not a pass
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_right_passes),
      cmocka_unit_test(test_poison_fails),
      cmocka_unit_test(test_off_by_one_fails),
      cmocka_unit_test(test_lse),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
