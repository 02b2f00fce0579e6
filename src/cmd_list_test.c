// cmd_list_test.c -- what `longca list` prints: every kernel and mask once, and a reason for each no.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../kernels/attn.h"
#include "capture.h"
#include "cmd.h"

static int run(const char *arguments) { return capture_run(cmd_list, "list", arguments); }

static int lines(void) {
  int n = 0;
  for (const char *c = capture_out; *c; c++)
    n += *c == '\n';
  return n;
}

static int kernels(void) {
  int n = 0;
  while (attn_kernels[n])
    n++;
  return n;
}

static void test_kernels_and_masks(void **state) {
  assert_int_equal(run("kernels --csv"), 0);
  assert_int_equal(lines(), 1 + kernels());
  for (int i = 0; attn_kernels[i]; i++) {
    char start[128];
    snprintf(start, sizeof start, "\n%s,%s,%s,%s,", attn_kernels[i]->name,
             attn_kernels[i]->place == ATTN_HOST ? "host" : "device", attn_kernels[i]->rep,
             attn_kernels[i]->engine);
    assert_non_null(strstr(capture_out, start));
  }
  assert_int_equal(run("masks --csv"), 0);
  assert_int_equal(lines(), 1 + MASK_KINDS);
  for (int kind = 0; kind < MASK_KINDS; kind++)
    assert_non_null(strstr(capture_out, mask_name((enum mask_kind)kind)));
}

// One row a mask (uniform blocks in two sizes) and kernel; yes without a reason, no with one; naive
// runs everything, since its mask is the dense definition.
static void test_support(void **state) {
  assert_int_equal(run("support --csv --heads 8:8"), 0);
  assert_int_equal(lines(), 1 + (MASK_KINDS + 1) * kernels());
  int checked = 0;
  for (char *rest, *line = strtok_r(capture_out, "\n", &rest); line;
       line = strtok_r(NULL, "\n", &rest)) {
    char mask[64], block[16], kernel[64], place[16], forward[16], backward[16];
    int end = 0;
    if (sscanf(line, "%63[^,],%15[^,],%63[^,],%15[^,],%15[^,],%15[^,],%n", mask, block, kernel,
               place, forward, backward, &end) != 6 ||
        !end)
      fail_msg("not a row: %s", line);
    if (!strcmp(mask, "mask"))
      continue;
    assert_true(mask_parse(mask) >= 0);
    const bool both = !strcmp(forward, "yes") && !strcmp(backward, "yes");
    assert_int_equal(both, line[end] == 0);
    if (!strcmp(kernel, "naive"))
      assert_true(both);
    if (!strcmp(kernel, "flashmask") && !strcmp(place, "host"))
      assert_int_equal(both, !mask_is_block_sparse((enum mask_kind)mask_parse(mask)));
    if (!strcmp(kernel, "vsa") && !strcmp(place, "host"))
      assert_int_equal(!strcmp(forward, "yes"), !strcmp(block, "64"));
    checked++;
  }
  assert_int_equal(checked, (MASK_KINDS + 1) * kernels());
  assert_int_equal(run("support --md"), 0);
  assert_non_null(strstr(capture_out, "## Support on the host, 8:8 heads"));
  assert_non_null(strstr(capture_out, "\n- [1] "));
}

static void test_all(void **state) {
  assert_int_equal(run(""), 0);
  static const char *const titles[] = {"Kernels\n\n", "\nMasks\n\n", "\nStrategies\n\n",
                                       "\nExperiments\n\n", "\nSupport on the host"};
  for (int i = 0; i < 5; i++)
    assert_non_null(strstr(capture_out, titles[i]));
  assert_non_null(strstr(capture_out, "\nsmoke "));
}

static void test_refusals(void **state) {
  static const char *const bad[][2] = {
      {"foo", "kernels, masks, strategies, experiments, support"},
      {"masks kernels", "name one"},
      {"--csv", "name one"},
      {"--foo", "unknown option '--foo'"},
      {"--heads", "needs a value"},
      {"--heads 8:3", "'8:3'"},
      {"--heads 8", "'8'"},
      {"--heads 8:8:8", "'8:8:8'"},
  };
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
    capture_refusal(cmd_list, "list", bad[i][0], bad[i][1]);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_kernels_and_masks),
      cmocka_unit_test(test_support),
      cmocka_unit_test(test_all),
      cmocka_unit_test(test_refusals),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
