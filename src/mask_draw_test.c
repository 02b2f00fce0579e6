// mask_draw_test.c -- draws against the study's vectors (study 1.4, 1.5, 2.4) and golden_masks.json.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>
#include <cmocka.h>

#include "mask_draw.h"

static struct mask draw(struct mask_recipe recipe, int number) {
  struct mask m;
  char err[256];
  if (mask_draw_nth(&m, 42, number, &recipe, err, sizeof err))
    fail_msg("%s at %d: %s", mask_name(recipe.kind), recipe.seqlen, err);
  return m;
}

static void assert_same(double a, double b) {
  if (!(a == b))
    fail_msg("%.17g is not %.17g", a, b);
}

static void test_random(void **state) {
  struct mask_rng rng;
  mask_rng_seed(&rng, 42);
  assert_same(mask_rng_random(&rng), 0.6394267984578837);
  assert_same(mask_rng_random(&rng), 0.025010755222666936);
  assert_same(mask_rng_random(&rng), 0.27502931836911926);
  mask_rng_seed(&rng, 42);
  assert_int_equal(mask_rng_u32(&rng), 2746317213u);
  assert_int_equal(mask_rng_u32(&rng), 478163327u);
  assert_int_equal(mask_rng_u32(&rng), 107420369u);
  mask_rng_seed(&rng, 42);
  assert_int_equal(mask_rng_randint(&rng, 1, 8192), 1825);
  // Past one refill of the state, and with a key of two words: from CPython 3.11.
  mask_rng_seed(&rng, 0);
  for (int i = 0; i < 1000; i++)
    mask_rng_u32(&rng);
  assert_int_equal(mask_rng_u32(&rng), 126175447u);
  mask_rng_seed(&rng, UINT64_C(0x123456789abcdef0));
  assert_int_equal(mask_rng_u32(&rng), 3646699384u);
}

// Every row of the study's own draws, bit for bit. Rows of one mask and length continue one stream.
static void test_golden(void **state) {
  FILE *file = fopen("src/golden_masks.json", "rb");
  if (!file)
    fail_msg("src/golden_masks.json is not here; run the tests from the top of the tree");
  static char text[1 << 16];
  text[fread(text, 1, sizeof text - 1, file)] = 0;
  fclose(file);
  cJSON *rows = cJSON_Parse(text);
  assert_non_null(rows);
  assert_int_equal(cJSON_GetArraySize(rows), 14 * 3 * 3);
  const cJSON *row;
  cJSON_ArrayForEach(row, rows) {
    const char *name = cJSON_GetObjectItem(row, "mask")->valuestring;
    const int kind = mask_parse(name);
    assert_true(kind >= 0);
    const struct mask_recipe recipe = {.kind = (enum mask_kind)kind,
                                       .seqlen = cJSON_GetObjectItem(row, "seqlen")->valueint};
    assert_int_equal(cJSON_GetObjectItem(row, "seed")->valueint, 42);
    struct mask m = draw(recipe, cJSON_GetObjectItem(row, "draw")->valueint);
    assert_string_equal(mask_histogram_for(m.seqlen, false),
                        cJSON_GetObjectItem(row, "histogram")->valuestring);
    assert_same(mask_area(&m), cJSON_GetObjectItem(row, "area")->valuedouble);
    const cJSON *lengths = cJSON_GetObjectItem(row, "lengths");
    assert_int_equal(!!lengths, mask_has_docs(m.kind));
    if (lengths) {
      assert_int_equal(cJSON_GetArraySize(lengths), m.docs);
      for (int32_t i = 0; i < m.docs; i++)
        assert_int_equal(m.doc_begin[i + 1] - m.doc_begin[i],
                         cJSON_GetArrayItem(lengths, i)->valueint);
    }
    const cJSON *prefix = cJSON_GetObjectItem(row, "prefix"),
                *window = cJSON_GetObjectItem(row, "window");
    assert_int_equal(m.prefix, prefix ? prefix->valueint : 0);
    assert_int_equal(!!window, m.kind == MASK_GLOBAL_SLIDING_WINDOW);
    if (window)
      assert_int_equal(m.window, window->valueint);
    mask_free(&m);
  }
  cJSON_Delete(rows);
}

// First mask of seed 42 (study 1.5).
static void test_vectors(void **state) {
  static const struct {
    int32_t seqlen, docs, plc_p, pld_p, g, last_bcd;
    double fd, cd, sq, cb, plc, pld, gs, bcd, csw, fsw;
  } v[] = {
      {1024, 4, 229, 303, 328, 1, 447594, 224309, 461172, 234449, 550906, 321011, 913520, 1048576,
       524800, 1048576},
      {2048, 8, 457, 113, 655, 2, 767430, 384739, 983074, 667690, 2202372, 427936, 3650398, 3145728,
       1574400, 3146752},
      {4096, 12, 913, 143, 1310, 1, 1975798, 989947, 2311226, 2415355, 8806984, 1090984, 14600116,
       5242880, 3673600, 7343104},
      {8192, 17, 1825, 236, 2620, 5, 15108732, 7558462, 10325629, 8271614, 35222928, 7849026,
       58397512, 19922944, 7872000, 15735808},
      {16384, 25, 3649, 390, 5239, 4, 29567096, 14791740, 23423995, 16598043, 140881696, 16019449,
       233560526, 40894464, 16268800, 32521216},
      {24576, 43, 20953, 439, 5239, 1, 35964248, 17994412, 31091307, 19856412, 521505804, 20496158,
       405240270, 54525952, 24665600, 49306624},
      {32768, 59, 7297, 270, 10477, 1, 42185234, 21109001, 38670536, 22320048, 563506752, 22688892,
       934183042, 84934656, 33062400, 66092032},
      {40960, 69, 7297, 246, 10477, 2, 54399892, 27220426, 49246601, 34114105, 865500736, 28853877,
       1277501570, 101711872, 41459200, 82877440},
      {49152, 77, 41906, 206, 10477, 1, 67918544, 33983848, 60474663, 141074943, 2086019593,
       35347597, 1620820098, 121634816, 49856000, 99662848},
  };
  for (size_t i = 0; i < sizeof v / sizeof *v; i++) {
    const struct {
      enum mask_kind kind;
      double area;
    } areas[] = {
        {MASK_FULL_DOCUMENT, v[i].fd},          {MASK_CAUSAL_DOCUMENT, v[i].cd},
        {MASK_SHARE_QUESTION, v[i].sq},         {MASK_CAUSAL_BLOCKWISE, v[i].cb},
        {MASK_PREFIX_LM_CAUSAL, v[i].plc},      {MASK_PREFIX_LM_DOCUMENT, v[i].pld},
        {MASK_SLIDING_WINDOW, v[i].fsw},        {MASK_SLIDING_WINDOW_CAUSAL, v[i].csw},
        {MASK_BLOCK_CAUSAL_DOCUMENT, v[i].bcd}, {MASK_GLOBAL_SLIDING_WINDOW, v[i].gs},
    };
    for (size_t a = 0; a < sizeof areas / sizeof *areas; a++) {
      struct mask m = draw((struct mask_recipe){.kind = areas[a].kind, .seqlen = v[i].seqlen}, 0);
      assert_same(mask_area(&m), areas[a].area);
      if (m.kind == MASK_FULL_DOCUMENT)
        assert_int_equal(m.docs, v[i].docs);
      else if (m.kind == MASK_PREFIX_LM_CAUSAL)
        assert_int_equal(m.prefix, v[i].plc_p);
      else if (m.kind == MASK_PREFIX_LM_DOCUMENT)
        assert_int_equal(m.prefix, v[i].pld_p);
      else if (m.kind == MASK_GLOBAL_SLIDING_WINDOW)
        assert_int_equal(m.window, v[i].g);
      else if (m.kind == MASK_BLOCK_CAUSAL_DOCUMENT)
        assert_int_equal(m.seqlen - m.doc_begin[m.docs - 1], 1024 * v[i].last_bcd);
      mask_free(&m);
    }
  }
}

// The distributed runs' documents (study 2.4): the number of short and long ones, the first lengths.
static void test_long_documents(void **state) {
  static const struct {
    int32_t seqlen, docs, first[8];
  } v[] = {
      {64 << 10, 52, {134, 88, 173, 285, 145, 825, 46, 145}},
      {128 << 10, 84, {126, 95, 972, 82, 825, 725, 1424, 120}},
      {256 << 10, 88, {187, 134, 457, 679, 82, 104, 3879, 285}},
      {512 << 10, 97, {16315, 418, 25151, 86, 5426, 684, 825, 46}},
      {768 << 10, 106, {457, 14424, 679, 848, 192, 1127, 24098, 29366}},
  };
  for (size_t i = 0; i < sizeof v / sizeof *v; i++)
    for (int kind = MASK_FULL_DOCUMENT_LONG; kind <= MASK_CAUSAL_DOCUMENT_LONG; kind++) {
      struct mask m = draw((struct mask_recipe){.kind = (enum mask_kind)kind,
                                                .seqlen = v[i].seqlen,
                                                .distributed = true},
                           0);
      assert_int_equal(m.docs, v[i].docs);
      for (int d = 0; d < 8; d++)
        assert_int_equal(m.doc_begin[d + 1] - m.doc_begin[d], v[i].first[d]);
      mask_free(&m);
    }
}

static void test_histograms(void **state) {
  static const struct {
    int32_t seqlen;
    const char *one, *distributed;
  } v[] = {
      {1, "pile", "pile"},
      {12288, "pile", "pile"},
      {12289, "prolong64k", "prolong64k"},
      {65535, "prolong64k", "prolong64k"},
      {65536, "prolong64k", "prolong512k"},
      {65537, "prolong512k", "prolong512k"},
      {1 << 20, "prolong512k", "prolong512k"},
  };
  for (size_t i = 0; i < sizeof v / sizeof *v; i++) {
    assert_string_equal(mask_histogram_for(v[i].seqlen, false), v[i].one);
    assert_string_equal(mask_histogram_for(v[i].seqlen, true), v[i].distributed);
  }
  assert_string_equal(mask_histogram_names(), "pile, prolong512k, prolong64k");
  // The override takes effect: same stream, other lengths (study 1.5, the rows of 8K and 16K).
  struct mask m = draw(
      (struct mask_recipe){.kind = MASK_FULL_DOCUMENT, .seqlen = 8192, .histogram = "prolong64k"},
      0);
  assert_int_equal(m.doc_begin[1], 545);
  assert_int_equal(m.doc_begin[2], 545 + 719);
  mask_free(&m);
}

static int popcount(const uint32_t *words, int32_t n) {
  int bits = 0;
  for (int32_t i = 0; i < n; i++)
    bits += __builtin_popcount(words[i]);
  return bits;
}

// Sizes and counts of the block-sparse rules (mask_draw.h), at ratios and lengths with remainders.
static void test_block_sparse(void **state) {
  static const int32_t lengths[] = {1, 17, 127, 129, 1000, 4096};
  static const double ratios[] = {0.01, 0.2, 0.5, 0.8, 1.0};
  for (int kind = MASK_UNIFORM_BLOCK_SPARSE; kind <= MASK_VARIABLE_BLOCK_SPARSE; kind++)
    for (int l = 0; l < 6; l++)
      for (int r = 0; r < 5; r++) {
        const bool uniform = kind == MASK_UNIFORM_BLOCK_SPARSE;
        const struct mask_recipe recipe = {.kind = (enum mask_kind)kind,
                                           .seqlen = lengths[l],
                                           .heads_kv = 4,
                                           .block = 64,
                                           .block_min = 24,
                                           .ratio = ratios[r]};
        struct mask m = draw(recipe, 1);
        const int32_t n = uniform ? (m.seqlen + 63) / 64 : m.seqlen < 64 ? 1 : m.seqlen / 64;
        int32_t k = (int32_t)(ratios[r] * n);
        k = k < 1 ? 1 : k;
        assert_int_equal(m.heads, 4);
        assert_int_equal(m.blocks_q, n);
        assert_int_equal(m.blocks_k, n);
        assert_int_equal(m.kept_words, (n + 31) / 32);
        for (int32_t head = 0; head < 4; head++)
          for (int side = 0; side < 2; side++) {
            const int32_t *begin = (side ? m.col_begin : m.row_begin) + head * (n + 1);
            assert_int_equal(begin[0], 0);
            assert_int_equal(begin[n], m.seqlen);
            for (int32_t i = 0; i < n; i++) {
              const int32_t size = begin[i + 1] - begin[i];
              if (uniform)
                assert_int_equal(size, i < n - 1 || m.seqlen % 64 == 0 ? 64 : m.seqlen % 64);
              else
                assert_true(size >= 24 || m.seqlen < 64);
            }
          }
        for (int32_t row = 0; row < 4 * n; row++)
          assert_int_equal(popcount(m.kept + (int64_t)row * m.kept_words, m.kept_words), k);
        if (ratios[r] == 1.0)
          assert_same(mask_area(&m), (double)m.seqlen * m.seqlen);
        else if (uniform && m.seqlen % 64 == 0)
          assert_same(mask_area(&m), (double)k / n * m.seqlen * m.seqlen);
        mask_free(&m);
      }
}

// Each block column is kept about equally often, heads and draws differ, variable sizes vary, and a
// block_min equal to the average gives equal blocks.
static void test_block_sparse_random(void **state) {
  struct mask_recipe recipe = {.kind = MASK_VARIABLE_BLOCK_SPARSE,
                               .seqlen = 32768,
                               .heads_kv = 2,
                               .block = 256,
                               .ratio = 0.25};
  struct mask m = draw(recipe, 0), other = draw(recipe, 1);
  const size_t head_bytes = (size_t)m.blocks_q * (size_t)m.kept_words * 4;
  assert_int_equal(m.blocks_q, 128);
  assert_memory_not_equal(m.kept, m.kept + head_bytes / 4, head_bytes);
  assert_memory_not_equal(m.kept, other.kept, head_bytes);
  assert_memory_not_equal(m.row_begin, m.row_begin + 129, 129 * 4);
  assert_memory_not_equal(m.row_begin, m.col_begin, 129 * 4);
  for (int32_t c = 0; c < 128; c++) { // of 2 * 128 rows each keeps it with 1/4: 64 +- 5 sd of 6.93
    int kept = 0;
    for (int32_t row = 0; row < 256; row++)
      kept += m.kept[row * m.kept_words + c / 32] >> (c % 32) & 1;
    assert_in_range(kept, 64 - 35, 64 + 35);
  }
  mask_free(&m);
  mask_free(&other);
  recipe.block = 128;
  m = draw(recipe, 0);
  for (int32_t i = 0; i <= 256; i++)
    assert_int_equal(m.row_begin[i], i * 128);
  mask_free(&m);
}

static void test_defaults(void **state) {
  struct mask m = draw((struct mask_recipe){.kind = MASK_SLIDING_WINDOW, .seqlen = 4000}, 0);
  assert_int_equal(m.window, 1024);
  mask_free(&m);
  m = draw((struct mask_recipe){.kind = MASK_SLIDING_WINDOW_CAUSAL, .seqlen = 4000, .window = 7},
           0);
  assert_int_equal(m.window, 7);
  mask_free(&m);
  m = draw((struct mask_recipe){.kind = MASK_BLOCK_CAUSAL_DOCUMENT, .seqlen = 640, .block = 64}, 2);
  assert_int_equal(m.block, 64);
  for (int32_t d = 0; d < m.docs; d++)
    assert_int_equal(m.doc_begin[d] % 64, 0);
  mask_free(&m);
}

static void assert_refused(struct mask_recipe recipe, const char *why) {
  struct mask m;
  char err[256] = "";
  assert_int_equal(mask_draw_nth(&m, 42, 0, &recipe, err, sizeof err), -1);
  if (!strstr(err, why))
    fail_msg("'%s' does not say '%s'", err, why);
  assert_int_equal(mask_draw_nth(&m, 42, 0, &recipe, NULL, 0),
                   -1); // a caller may not want the sentence
  mask_free(&m);
}

static void test_refusals(void **state) {
  const enum mask_kind bcd = MASK_BLOCK_CAUSAL_DOCUMENT, ubs = MASK_UNIFORM_BLOCK_SPARSE;
  assert_refused((struct mask_recipe){.kind = MASK_FULL}, "seqlen");
  assert_refused((struct mask_recipe){.kind = MASK_KINDS, .seqlen = 8}, "kind");
  assert_refused((struct mask_recipe){.kind = MASK_FULL_DOCUMENT, .seqlen = 8, .histogram = "c4"},
                 "pile, prolong512k, prolong64k");
  assert_refused((struct mask_recipe){.kind = bcd, .seqlen = 1000}, "multiple of its block, 1024");
  assert_refused((struct mask_recipe){.kind = ubs, .seqlen = 8, .ratio = 0.5}, "KV heads");
  assert_refused((struct mask_recipe){.kind = ubs, .seqlen = 8, .heads_kv = 1}, "ratio");
  assert_refused((struct mask_recipe){.kind = ubs, .seqlen = 8, .heads_kv = 1, .ratio = 1.5},
                 "ratio");
  assert_refused((struct mask_recipe){.kind = MASK_VARIABLE_BLOCK_SPARSE,
                                      .seqlen = 1024,
                                      .heads_kv = 1,
                                      .ratio = 0.5,
                                      .block = 128,
                                      .block_min = 129},
                 "smallest");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_random),
      cmocka_unit_test(test_golden),
      cmocka_unit_test(test_vectors),
      cmocka_unit_test(test_long_documents),
      cmocka_unit_test(test_histograms),
      cmocka_unit_test(test_block_sparse),
      cmocka_unit_test(test_block_sparse_random),
      cmocka_unit_test(test_defaults),
      cmocka_unit_test(test_refusals),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
