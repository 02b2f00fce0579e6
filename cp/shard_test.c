// shard_test.c -- tokens by rank (shard.c, cut.c): every rank has its share of the work of every mask.
// clang-format off
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
// clang-format on
#include <math.h>
#include <stdint.h>

#include "../src/mask_draw.h"
#include "cp.h"

static const enum mask_kind kinds[] = {MASK_FULL, MASK_CAUSAL, MASK_FULL_DOCUMENT_LONG,
                                       MASK_CAUSAL_DOCUMENT_LONG};
enum { KINDS = sizeof kinds / sizeof *kinds };

// Most over mean work of the study's own draws, 1K tokens a rank.
static void test_balance(void **state) {
  int32_t lengths[256];
  for (int ranks = 2; ranks <= 16; ranks *= 2)
    for (int i = 0; i < KINDS; i++) {
      uint32_t random = 12345;
      int32_t docs = 0, left = 1024 * ranks;
      for (; left > 0; left -= lengths[docs++]) { // mostly short, some long
        random = random * 1664525u + 1013904223u;
        const int32_t most = docs % 8 == 3 ? 3000 : 150;
        lengths[docs] = 1 + (int32_t)(random >> 8) % most;
        lengths[docs] = lengths[docs] < left ? lengths[docs] : left;
      }
      struct mask m;
      assert_int_equal(0, mask_init(&m, kinds[i], 1024 * ranks, i > 1 ? lengths : NULL,
                                    i > 1 ? docs : 0, 0, 0, 0, NULL, 0));
      const struct cp_grid grid = {.heads = 1, .context = ranks, .windows = 1};
      struct cp_shard s;
      assert_int_equal(0, cp_shard_init(&s, &m, &grid));
      double area = 0;
      for (int r = 0; r < ranks; r++)
        area += cp_shard_work(&s, &m, r);
      const double balance = cp_shard_balance(&s, &m), padding = (double)s.rows * ranks / m.seqlen;
      print_message("balance %-20s %2d ranks: %.4f, padded rows %.3f\n", mask_name(kinds[i]), ranks,
                    balance, padding);
      assert_true(fabs(area - mask_area(&m)) < 0.5);
      assert_true(balance <= 1.02);
      assert_true(padding <= 1.25);
      cp_shard_free(&s);
      mask_free(&m);
    }
}

// Slices balance every mask, but for rows that cannot be halved: a rank may have two of the longest more. So
// do chunks, but for the dearest.
static void test_every_mask_balances(void **state) {
  for (int kind = 0; kind < MASK_KINDS; kind++)
    for (int ranks = 2; ranks <= 64; ranks *= 2) {
      const struct mask_recipe recipe = {
          .kind = (enum mask_kind)kind, .seqlen = 2048 * ranks, .distributed = true, .heads_kv = 1};
      struct mask m;
      double balance[CP_CUTS];
      enum cp_cut chosen = CP_CUT_AUTO;
      if (mask_is_block_sparse((enum mask_kind)kind))
        continue;
      assert_int_equal(0, mask_draw_nth(&m, 42, 0, &recipe, NULL, 0));
      for (int cut = 0; cut < CP_CUTS; cut++) {
        const struct cp_grid grid = {
            .heads = 1, .context = ranks, .windows = 1, .cut = (enum cp_cut)cut};
        struct cp_shard s;
        assert_int_equal(0, cp_shard_init(&s, &m, &grid));
        balance[cut] = cp_shard_balance(&s, &m);
        chosen = cut == CP_CUT_AUTO ? s.cut : chosen;
        assert_true(s.tokens_max <= s.context_rows);
        assert_true(s.cut != CP_CUT_CHUNKS || s.context_rows <= 2048 + 8);
        cp_shard_free(&s);
      }
      print_message("balance %-24s %2d ranks:", mask_name((enum mask_kind)kind), ranks);
      for (int cut = CP_CUT_CONTIGUOUS; cut < CP_CUTS; cut++)
        print_message(" %s %.3f", cp_cut_names[cut], balance[cut]);
      print_message(", takes %s\n", cp_cut_names[chosen]);
      const double row = (double)m.seqlen * ranks / mask_area(&m); // the longest that one may be
      assert_true(balance[CP_CUT_SLICES] <= 1.01 + 2 * row);
      assert_true(balance[CP_CUT_CHUNKS] <= 1.01 + 256 * row);
      assert_true(balance[CP_CUT_AUTO] == balance[chosen]);
      mask_free(&m);
    }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_balance),
      cmocka_unit_test(test_every_mask_balances),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
