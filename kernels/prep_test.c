// prep_test.c -- what preparation builds on the device against the same built on the host: here a
// representation's arrays byte for byte, in prep_test_lists.c work lists. Runs on a GPU (`make test-gpu`)
// and on an emulated one (`make test-emulated`).
#include "prep_test.h"

#ifdef LONGCA_CUDA

int each_case(int32_t n,
              void (*run)(const struct rep_ops *ops, const struct mask *m, int variant)) {
  int ran = 0;
  for (int r = 0; rep_table[r]; r++)
    for (int kind = 0; kind < MASK_KINDS; kind++)
      for (int variant = 0; variant < CASE_VARIANTS; variant++) {
        struct mask m;
        assert_int_equal(case_mask(&m, (enum mask_kind)kind, n, variant), 0);
        if (!rep_table[r]->supports(&m)) {
          run(rep_table[r], &m, variant);
          ran++;
        }
        mask_free(&m);
      }
  return ran;
}

static void *at_offset(const void *rep, size_t offset) {
  void *array;
  memcpy(&array, (const char *)rep + offset, sizeof array);
  return array;
}

static void expect_same_arrays(const struct rep_ops *ops, const struct mask *m, int variant) {
  struct rep_array list[REP_ARRAYS_MAX] = {{0, 0, false}};
  struct rep_device built;
  char *host = calloc(1, ops->size), *copy = malloc(ops->size);
  assert_non_null(host);
  assert_non_null(copy);
  assert_int_equal(ops->build(host, m), 0);
  if (rep_device_open(&built, ops, m))
    fail_msg("%s on %s variant %d, length %d: %s", ops->name, mask_name(m->kind), variant,
             m->seqlen, attn_error());
  memcpy(copy, built.copy, ops->size);
  const int arrays = ops->arrays(host, list);
  for (int a = 0; a < arrays; a++) {
    const size_t bytes = list[a].bytes;
    void *want = at_offset(host, list[a].offset), *device = at_offset(copy, list[a].offset),
         *got = malloc(bytes + 1);
    assert_non_null(got);
    if (bytes)
      assert_int_equal(device_download(got, device, bytes), 0);
    if (memcmp(got, want, bytes) != 0)
      fail_msg("%s on %s variant %d, length %d: array %d of %zu bytes differs", ops->name,
               mask_name(m->kind), variant, m->seqlen, a, bytes);
    free(got);
    memcpy(copy + list[a].offset, &want, sizeof want); // then the structs must be the same
  }
  if (memcmp(copy, host, ops->size) != 0)
    fail_msg("%s on %s variant %d, length %d: the struct differs", ops->name, mask_name(m->kind),
             variant, m->seqlen);
  assert_int_equal(built.bytes, ops->bytes(host));
  ops->release(host);
  rep_device_close(&built);
  free(host);
  free(copy);
}

static void test_arrays(void **state) {
  static const int32_t lengths[] = {1, 17, 127, 129, 700};
  (void)state;
  need_device();
  for (int l = 0; l < 5; l++)
    assert_true(each_case(lengths[l], expect_same_arrays) > 200);
}

// More blocks than 32 words of bits have, and no whole number of them.
static void test_long_lists(void **state) {
  static const char *const reps[] = {"blocklist", "varblock", "blockmap", "columns"};
  (void)state;
  need_device();
  for (int r = 0; r < 4; r++)
    for (int variant = 6; variant < 8; variant++) { // blocks of 7 and of 128
      struct mask m;
      const enum mask_kind kind = r < 3 ? MASK_UNIFORM_BLOCK_SPARSE : MASK_SHARE_QUESTION;
      assert_int_equal(case_mask(&m, kind, 7401, variant), 0);
      expect_same_arrays(rep_find(reps[r]), &m, variant);
      mask_free(&m);
    }
}

// More rows, over all heads, than one round of their sums: blocks of one position.
static void test_many_rows(void **state) {
  enum { N = 271, HEADS = 17, WORDS = (N + 31) / 32 };
  static int32_t begin[HEADS][N + 1];
  static uint32_t kept[HEADS * N * WORDS];
  uint64_t seed = 1;
  (void)state;
  need_device();
  for (int i = 0; i < HEADS * (N + 1); i++)
    begin[i / (N + 1)][i % (N + 1)] = i % (N + 1);
  for (int i = 0; i < HEADS * N * N; i++)
    if (case_random(&seed, 3) == 0)
      kept[i / N * WORDS + i % N / 32] |= UINT32_C(1) << (i % N % 32);
  const struct mask m = {.kind = MASK_UNIFORM_BLOCK_SPARSE,
                         .seqlen = N,
                         .block = 1,
                         .heads = HEADS,
                         .blocks_q = N,
                         .blocks_k = N,
                         .row_begin = begin[0],
                         .col_begin = begin[0],
                         .kept = kept,
                         .kept_words = WORDS};
  expect_same_arrays(rep_find("blocklist"), &m, 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_arrays),
      cmocka_unit_test(test_long_lists),
      cmocka_unit_test(test_many_rows),
      cmocka_unit_test(test_lists),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}

#else

int main(void) { return skip_program(device_error()); }

#endif
