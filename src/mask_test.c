// mask_test.c -- spans, areas and pictures of every kind against mask_allows, pair by pair.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "mask.h"
#include "mask_draw.h"

static const int32_t lengths_tested[] = {1, 2, 5, 17, 64, 127, 129, 1000};
enum { LENGTHS = sizeof lengths_tested / sizeof *lengths_tested, DRAWS = 3 };

// Visible keys of each row, summed over the heads, straight from the definition: row[seqlen + 1] sums
// of the rows before.
static double *count_rows(const struct mask *m) {
  const int32_t heads = m->heads ? m->heads : 1;
  double *sum = calloc((size_t)m->seqlen + 1, sizeof *sum);
  assert_non_null(sum);
  for (int32_t q = 0; q < m->seqlen; q++) {
    double row = 0;
    for (int32_t head = 0; head < heads; head++)
      for (int32_t k = 0; k < m->seqlen; k++)
        row += mask_allows(m, head, q, k);
    sum[q + 1] = sum[q] + row / heads;
  }
  return sum;
}

static void assert_near(double a, double b) {
  if (!(a - b <= 1e-6 && b - a <= 1e-6))
    fail_msg("%.17g is not %.17g", a, b);
}

static void check_areas(const struct mask *m) {
  double *sum = count_rows(m);
  assert_near(mask_area(m), sum[m->seqlen]);
  const int32_t step = m->seqlen > 129 ? 37 : 1; // every range of the short masks
  for (int32_t a = 0; a <= m->seqlen; a += step)
    for (int32_t b = a; b <= m->seqlen; b += step)
      assert_near(mask_area_rows(m, a, b), sum[b] - sum[a]);
  free(sum);
}

// Within a slice the third row goes on as the first two began; where slices meet, it does not.
static void check_slices(const struct mask *m) {
  if (mask_is_block_sparse(m->kind))
    return;
  double *sum = count_rows(m);
  int32_t n, *begin = mask_slices(m, &n);
  assert_non_null(begin);
  assert_in_range(n, 1, m->seqlen);
  assert_int_equal(begin[0], 0);
  assert_int_equal(begin[n], m->seqlen);
#define BEND(q) (sum[(q) + 1] - 3 * sum[q] + 3 * sum[(q)-1] - sum[(q)-2]) // of keys a row, at row q
  for (int32_t i = 0; i < n; i++) {
    assert_true(begin[i] < begin[i + 1]);
    for (int32_t q = begin[i] + 2; q < begin[i + 1]; q++)
      assert_true(BEND(q) == 0);
    if (begin[i + 1] - begin[i] > 1 && i + 1 < n)
      assert_true(BEND(begin[i + 1]) != 0);
  }
#undef BEND
  free(begin);
  free(sum);
}

static void check_spans(const struct mask *m) {
  if (mask_is_block_sparse(m->kind))
    return;
  for (int32_t q = 0; q < m->seqlen; q++) {
    struct mask_span spans[MASK_SPANS_MAX];
    const int n = mask_row_spans(m, q, spans);
    assert_in_range(n, 1, MASK_SPANS_MAX);
    int s = 0;
    for (int i = 0; i < n; i++) {
      assert_true(spans[i].begin < spans[i].end && spans[i].end <= m->seqlen);
      assert_true(spans[i].begin >= (i ? spans[i - 1].end + 1 : 0));
    }
    for (int32_t k = 0; k < m->seqlen; k++) {
      s += s < n && k >= spans[s].end;
      assert_int_equal(s < n && k >= spans[s].begin, mask_allows(m, 0, q, k));
    }
  }
}

static void check_picture(const struct mask *m) {
  const int32_t sizes[] = {1, m->seqlen / 3 + 1, m->seqlen}, seqlen = m->seqlen;
  for (int i = 0; i < (seqlen > 200 ? 2 : 3); i++) {
    const int32_t n = sizes[i], head = m->heads ? m->heads - 1 : 0;
    double *density = malloc(sizeof *density * (size_t)n * (size_t)n);
    assert_non_null(density);
    mask_picture(m, head, n, density);
    for (int32_t r = 0; r < n; r++)
      for (int32_t c = 0; c < n; c++) {
        double visible = 0, all = 0;
        for (int32_t q = r * seqlen / n; q < (r + 1) * seqlen / n; q++)
          for (int32_t k = c * seqlen / n; k < (c + 1) * seqlen / n; k++, all++)
            visible += mask_allows(m, head, q, k);
        assert_near(density[(size_t)r * (size_t)n + (size_t)c], visible / all);
      }
    free(density);
  }
}

static void check_structure(const struct mask *m) {
  assert_int_equal(m->doc_begin[0], 0);
  assert_int_equal(m->doc_begin[m->docs], m->seqlen);
  for (int32_t x = 0; x < m->seqlen; x++)
    assert_true(m->doc_begin[m->doc_of[x]] <= x && x < m->doc_begin[m->doc_of[x] + 1]);
  check_areas(m);
  check_spans(m);
  check_slices(m);
  check_picture(m);
}

// Every kind as drawn, at every length.
static void test_drawn(void **state) {
  for (int kind = 0; kind < MASK_KINDS; kind++)
    for (int i = 0; i < LENGTHS; i++)
      for (int draw = 0; draw < (lengths_tested[i] > 200 ? 1 : DRAWS); draw++) {
        struct mask_recipe recipe = {.kind = (enum mask_kind)kind,
                                     .seqlen = lengths_tested[i],
                                     .window = 1 + draw * 16,
                                     .heads_kv = 3,
                                     .ratio = 0.3};
        if (kind == MASK_BLOCK_CAUSAL_DOCUMENT)
          recipe.block = lengths_tested[i] % 4 ? 1 : 4;
        else if (mask_is_block_sparse(recipe.kind))
          recipe.block = 16, recipe.block_min = 3;
        struct mask m;
        char err[256];
        if (mask_draw_nth(&m, 7, draw, &recipe, err, sizeof err))
          fail_msg("%s at %d: %s", mask_name(recipe.kind), recipe.seqlen, err);
        assert_int_equal(m.kind, kind);
        check_structure(&m);
        mask_free(&m);
      }
}

// Documents, windows, prefixes and blocks chosen to meet edges: one token, a window or prefix as long
// as the sequence or longer, a block that does not divide the documents.
static void test_given(void **state) {
  static const int32_t documents[][5] = {
      {1, 1, 125, 1, 1}, {129}, {127, 1, 1}, {1, 128}, {40, 40, 49}};
  static const int32_t sizes[] = {0, 1, 16, 64, 128, 129, 130, 2000};
  for (int kind = 0; kind < MASK_UNIFORM_BLOCK_SPARSE; kind++)
    for (size_t d = 0; d < sizeof documents / sizeof *documents; d++)
      for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        int32_t docs = 0;
        while (docs < 5 && documents[d][docs])
          docs++;
        struct mask m;
        int32_t seqlen = 0;
        for (int32_t i = 0; i < docs; i++)
          seqlen += documents[d][i];
        char err[256];
        if (mask_init(&m, (enum mask_kind)kind, seqlen, documents[d], docs, sizes[s], sizes[s],
                      sizes[s] + 1, err, sizeof err))
          fail_msg("%s", err);
        assert_int_equal(m.docs, mask_has_docs(m.kind) ? docs : 1);
        check_areas(&m);
        check_spans(&m);
        check_slices(&m);
        mask_free(&m);
      }
}

static double area_of(enum mask_kind kind, const int32_t *lengths, int32_t docs,
                      int32_t parameter) {
  struct mask m;
  assert_int_equal(mask_init(&m, kind, 129, lengths, docs, parameter, parameter, 128, NULL, 0), 0);
  const double area = mask_area(&m);
  mask_free(&m);
  return area;
}

// The degenerate cases that study 1.3 names.
static void test_degenerate(void **state) {
  static const int32_t one[] = {129}, two[] = {50, 79};
  const double full = 129 * 129, causal = 129 * 130 / 2;
  assert_near(area_of(MASK_SLIDING_WINDOW, NULL, 0, 129), full);
  assert_near(area_of(MASK_SLIDING_WINDOW_CAUSAL, NULL, 0, 129), causal);
  assert_near(area_of(MASK_SLIDING_WINDOW_CAUSAL, NULL, 0, 0), 129);
  assert_near(area_of(MASK_GLOBAL_SLIDING_WINDOW, NULL, 0, 129), full);
  assert_near(area_of(MASK_PREFIX_LM_CAUSAL, NULL, 0, 129), full);
  assert_near(area_of(MASK_PREFIX_LM_CAUSAL, NULL, 0, 0), causal);
  assert_near(area_of(MASK_FULL_DOCUMENT, one, 1, 0), full);
  assert_near(area_of(MASK_PREFIX_LM_DOCUMENT, one, 1, 129), full);
  assert_near(area_of(MASK_SHARE_QUESTION, one, 1, 0), causal);
  assert_near(area_of(MASK_SHARE_QUESTION, two, 2, 0), causal);
  assert_near(area_of(MASK_CAUSAL_BLOCKWISE, one, 1, 0), causal);
  assert_near(area_of(MASK_CAUSAL_BLOCKWISE, two, 2, 0), causal);
}

// Areas stay exact where S * S leaves 32 bits.
static void test_large(void **state) {
  struct mask m;
  assert_int_equal(mask_init(&m, MASK_CAUSAL, 1 << 20, NULL, 0, 0, 0, 0, NULL, 0), 0);
  assert_near(mask_area(&m), 549756338176.0);
  assert_near(mask_area_rows(&m, (1 << 20) - 1, 1 << 20), 1048576.0);
  mask_free(&m);
}

static void test_names(void **state) {
  for (int kind = 0; kind < MASK_KINDS; kind++) {
    const enum mask_kind k = (enum mask_kind)kind;
    assert_int_equal(mask_parse(mask_name(k)), kind);
    assert_non_null(strstr(mask_names(), mask_name(k)));
    assert_true(*mask_abbreviation(k) && *mask_summary(k));
  }
  assert_int_equal(mask_parse("caus"), -1);
  assert_int_equal(mask_parse(""), -1);
  assert_memory_equal(mask_names(), "full, causal, ", 14);
}

static void assert_refused(enum mask_kind kind, int32_t seqlen, const int32_t *lengths,
                           int32_t docs, int32_t parameter, const char *why) {
  struct mask m;
  char err[256] = "";
  assert_int_equal(
      mask_init(&m, kind, seqlen, lengths, docs, parameter, parameter, parameter, err, sizeof err),
      -1);
  if (!strstr(err, why))
    fail_msg("'%s' does not say '%s'", err, why);
  mask_free(&m); // harmless after a refusal
}

static void test_refusals(void **state) {
  static const int32_t lengths[] = {3, 4}, hollow[] = {3, 0, 4};
  assert_refused(MASK_FULL, 0, NULL, 0, 0, "at least 1");
  assert_refused(MASK_KINDS, 8, NULL, 0, 0, "does not exist");
  assert_refused(MASK_CAUSAL_DOCUMENT, 8, lengths, 2, 0, "have 7 tokens");
  assert_refused(MASK_CAUSAL_DOCUMENT, 8, NULL, 0, 0, "have 0 tokens");
  assert_refused(MASK_CAUSAL_DOCUMENT, 7, hollow, 3, 0, "document 1 has 0");
  assert_refused(MASK_SLIDING_WINDOW, 8, NULL, 0, -1, "negative");
  assert_refused(MASK_PREFIX_LM_CAUSAL, 8, NULL, 0, -1, "negative");
  assert_refused(MASK_BLOCK_CAUSAL_DOCUMENT, 7, lengths, 2, 0, "block");
  assert_refused(MASK_UNIFORM_BLOCK_SPARSE, 8, NULL, 0, 4, "drawn");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_drawn), cmocka_unit_test(test_given), cmocka_unit_test(test_degenerate),
      cmocka_unit_test(test_large), cmocka_unit_test(test_names), cmocka_unit_test(test_refusals),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
