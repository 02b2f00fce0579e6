// ref_test.c -- the double reference against closed forms and finite differences.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "ref.h"
#include "tensor.h"

enum { HEADS_Q = 4, HEADS_KV = 2, DIM = 64, LENGTH = 17 };

struct fixture {
  struct mask mask;
  struct attn_problem p;
  struct attn_args a;
  float q[LENGTH * HEADS_Q * DIM], k[LENGTH * HEADS_KV * DIM], v[LENGTH * HEADS_KV * DIM];
  float d_o[LENGTH * HEADS_Q * DIM];
};

static void setup(struct fixture *f, enum mask_kind kind, int32_t length) {
  char err[128];
  const int32_t lengths[] = {length};
  assert_int_equal(mask_init(&f->mask, kind, length, lengths, 1, 3, 2, 4, err, sizeof err), 0);
  f->p = (struct attn_problem){.mask = &f->mask,
                               .dtype = ATTN_FP32,
                               .heads_q = HEADS_Q,
                               .heads_kv = HEADS_KV,
                               .dim = DIM,
                               .rows_q = length,
                               .rows_k = length};
  f->a = (struct attn_args){.q = f->q, .k = f->k, .v = f->v, .d_o = f->d_o};
  tensor_fill_normal(f->q, ATTN_FP32, LENGTH * HEADS_Q * DIM, 1, 0);
  tensor_fill_normal(f->k, ATTN_FP32, LENGTH * HEADS_KV * DIM, 1, 1);
  tensor_fill_normal(f->v, ATTN_FP32, LENGTH * HEADS_KV * DIM, 1, 2);
  tensor_fill_normal(f->d_o, ATTN_FP32, LENGTH * HEADS_Q * DIM, 1, 3);
}

static void test_one_key(void **state) {
  (void)state;
  struct fixture f;
  double o[HEADS_Q * DIM], lse[HEADS_Q];
  setup(&f, MASK_CAUSAL, 1);
  assert_int_equal(ref_forward(&f.p, &f.a, o, lse), 0);
  for (int h = 0; h < HEADS_Q; h++) {
    double s = 0;
    for (int i = 0; i < DIM; i++) {
      s += (double)f.q[h * DIM + i] * (double)f.k[h / 2 * DIM + i];
      assert_true(fabs(o[h * DIM + i] - (double)f.v[h / 2 * DIM + i]) < 1e-12);
    }
    assert_true(fabs(lse[h] - s / 8) < 1e-12);
  }
  mask_free(&f.mask);
}

// Equal keys: every visible key weighs the same, so O is the mean of the visible values.
static void test_mean_of_visible(void **state) {
  (void)state;
  struct fixture f;
  double o[LENGTH * HEADS_Q * DIM], lse[LENGTH * HEADS_Q];
  setup(&f, MASK_CAUSAL, LENGTH);
  memset(f.k, 0, sizeof f.k);
  assert_int_equal(ref_forward(&f.p, &f.a, o, lse), 0);
  for (int r = 0; r < LENGTH; r++) {
    double mean = 0;
    for (int j = 0; j <= r; j++)
      mean += (double)f.v[(j * HEADS_KV + 1) * DIM + 5] / (r + 1);
    assert_true(fabs(o[(r * HEADS_Q + 3) * DIM + 5] - mean) < 1e-12);
    assert_true(fabs(lse[3 * LENGTH + r] - log(r + 1)) < 1e-12);
  }
  mask_free(&f.mask);
}

// Segments in which no query sees a key: O = 0, LSE = -inf, gradients 0.
static void test_empty_rows(void **state) {
  (void)state;
  struct fixture f;
  double o[LENGTH * HEADS_Q * DIM], lse[LENGTH * HEADS_Q], dq[LENGTH * HEADS_Q * DIM];
  double dk[LENGTH * HEADS_KV * DIM], dv[LENGTH * HEADS_KV * DIM];
  setup(&f, MASK_CAUSAL, LENGTH);
  const struct attn_segment q_seg = {0, 0, 4}, k_seg = {0, 8, 4};
  f.p.q_seg = &q_seg, f.p.k_seg = &k_seg, f.p.q_segs = f.p.k_segs = 1;
  assert_int_equal(ref_forward(&f.p, &f.a, o, lse), 0);
  assert_int_equal(ref_backward(&f.p, &f.a, dq, dk, dv), 0);
  for (int i = 0; i < LENGTH * HEADS_Q; i++)
    assert_true(lse[i] == -INFINITY && o[i * DIM] == 0 && dq[i * DIM] == 0);
  assert_true(dk[0] == 0 && dv[0] == 0);
  mask_free(&f.mask);
}

static double loss(struct fixture *f) {
  static double o[LENGTH * HEADS_Q * DIM], lse[LENGTH * HEADS_Q];
  assert_int_equal(ref_forward(&f->p, &f->a, o, lse), 0);
  double sum = 0;
  for (int i = 0; i < LENGTH * HEADS_Q * DIM; i++)
    sum += o[i] * (double)f->d_o[i];
  return sum;
}

static void check_slope(struct fixture *f, float *x, double gradient) {
  const float at = *x, step = 0x1p-7f;
  *x = at + step;
  const double up = loss(f), size = (double)*x;
  *x = at - step;
  const double slope = (up - loss(f)) / (size - (double)*x);
  *x = at;
  assert_true(fabs(slope - gradient) < 1e-3 * (1 + fabs(gradient)));
}

static void test_gradients(void **state) {
  (void)state;
  static struct fixture f;
  static double dq[LENGTH * HEADS_Q * DIM], dk[LENGTH * HEADS_KV * DIM],
      dv[LENGTH * HEADS_KV * DIM];
  const enum mask_kind kinds[] = {MASK_FULL, MASK_CAUSAL, MASK_GLOBAL_SLIDING_WINDOW};
  for (size_t m = 0; m < 3; m++) {
    setup(&f, kinds[m], LENGTH);
    assert_int_equal(ref_backward(&f.p, &f.a, dq, dk, dv), 0);
    for (int i = 7; i < LENGTH * HEADS_Q * DIM; i += 701)
      check_slope(&f, &f.q[i], dq[i]);
    for (int i = 3; i < LENGTH * HEADS_KV * DIM; i += 401) {
      check_slope(&f, &f.k[i], dk[i]);
      check_slope(&f, &f.v[i], dv[i]);
    }
    mask_free(&f.mask);
  }
}

// The single rows that large checks sample are the rows of the whole.
static void test_rows(void **state) {
  (void)state;
  static struct fixture f;
  static double o[LENGTH * HEADS_Q * DIM], lse[LENGTH * HEADS_Q], dq[LENGTH * HEADS_Q * DIM];
  static double dk[LENGTH * HEADS_KV * DIM], dv[LENGTH * HEADS_KV * DIM];
  static float o32[LENGTH * HEADS_Q * DIM], lse32[LENGTH * HEADS_Q];
  double noise, row[DIM], row_lse, row_dq[DIM], row_dk[DIM], row_dv[DIM];
  setup(&f, MASK_SLIDING_WINDOW, LENGTH);
  assert_int_equal(ref_forward(&f.p, &f.a, o, lse) | ref_backward(&f.p, &f.a, dq, dk, dv), 0);
  for (int i = 0; i < LENGTH * HEADS_Q * DIM; i++)
    o32[i] = (float)o[i];
  for (int i = 0; i < LENGTH * HEADS_Q; i++)
    lse32[i] = (float)lse[i];
  f.a.o = o32, f.a.lse = lse32;
  assert_int_equal(ref_query_row(&f.p, &f.a, 3, 9, row, &row_lse, row_dq, &noise), 0);
  assert_int_equal(ref_key_row(&f.p, &f.a, 1, 9, row_dk, row_dv, &noise), 0);
  assert_true(fabs(row_lse - lse[3 * LENGTH + 9]) < 1e-12);
  for (int i = 0; i < DIM; i++) {
    assert_true(fabs(row[i] - o[(9 * HEADS_Q + 3) * DIM + i]) < 1e-12);
    assert_true(fabs(row_dq[i] - dq[(9 * HEADS_Q + 3) * DIM + i]) < 1e-12);
    assert_true(fabs(row_dk[i] - dk[(9 * HEADS_KV + 1) * DIM + i]) < 1e-4);
    assert_true(fabs(row_dv[i] - dv[(9 * HEADS_KV + 1) * DIM + i]) < 1e-4);
  }
  mask_free(&f.mask);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_one_key),    cmocka_unit_test(test_mean_of_visible),
      cmocka_unit_test(test_empty_rows), cmocka_unit_test(test_gradients),
      cmocka_unit_test(test_rows),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
