// cmd_mask_test.c -- what `longca mask` prints, called as the program calls it.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>
#include <cmocka.h>

#include "capture.h"
#include "cmd.h"

static int run(const char *arguments) { return capture_run(cmd_mask, "mask", arguments); }

static void add(char *line, size_t size, const char *format, ...) {
  const size_t used = strlen(line);
  va_list ap;
  va_start(ap, format);
  vsnprintf(line + used, size - used, format, ap);
  va_end(ap);
}

// Three successive draws a call are the golden rows, column by column.
static void test_csv(void **state) {
  FILE *file = fopen("src/golden_masks.json", "rb");
  assert_non_null(file); // run from the top of the tree
  static char text[1 << 16];
  capture_read(file, text, sizeof text);
  cJSON *rows = cJSON_Parse(text);
  assert_non_null(rows);
  int checked = 0;
  const cJSON *row;
  char line[4096] = "mask,seqlen,seed,draw,histogram,lengths,prefix,window,area\n", arguments[256];
  cJSON_ArrayForEach(row, rows) {
    const char *name = cJSON_GetObjectItem(row, "mask")->valuestring;
    const int seqlen = cJSON_GetObjectItem(row, "seqlen")->valueint;
    const int number = cJSON_GetObjectItem(row, "draw")->valueint;
    add(line, sizeof line, "%s,%d,42,%d,%s,", name, seqlen, number,
        cJSON_GetObjectItem(row, "histogram")->valuestring);
    const cJSON *length, *lengths = cJSON_GetObjectItem(row, "lengths");
    cJSON_ArrayForEach(length, lengths)
        add(line, sizeof line, "%s%d", length == lengths->child ? "" : " ", length->valueint);
    for (int i = 0; i < 2; i++) {
      const cJSON *value = cJSON_GetObjectItem(row, i ? "window" : "prefix");
      add(line, sizeof line, value ? ",%d" : ",", value ? value->valueint : 0);
    }
    add(line, sizeof line, ",%.0f\n", cJSON_GetObjectItem(row, "area")->valuedouble);
    if (number < 2)
      continue;
    snprintf(arguments, sizeof arguments, "--kind %s --seqlen %d --draws 3 --csv", name, seqlen);
    assert_int_equal(run(arguments), 0);
    assert_string_equal(capture_out, line);
    assert_string_equal(capture_err, "");
    strcpy(line, "mask,seqlen,seed,draw,histogram,lengths,prefix,window,area\n");
    checked++;
  }
  assert_int_equal(checked, 14 * 3);
  cJSON_Delete(rows);
}

static void test_picture(void **state) {
  assert_int_equal(run("--kind causal --seqlen 4"), 0);
  assert_memory_equal(capture_out, "#...\n##..\n###.\n####\n", 20);
  assert_non_null(strstr(capture_out, "area 10 of 16 pairs, density 0.6250\n"));
  assert_int_equal(run("--kind causal --seqlen 1K --width 2"), 0);
  assert_memory_equal(capture_out, "+.\n#+\n", 6);
  assert_int_equal(run("--kind causal_document --seqlen 1024"), 0);
  assert_non_null(strstr(capture_out, "4 documents (pile): 353 559 102 10\n"));
  assert_int_equal(run("--kind causal --seqlen 7 --matrix 3"), 0);
  assert_string_equal(capture_out, "0.75 0 0\n1 0.75 0\n1 1 0.666667\n");
}

// Every representation once: its bytes, or why not; a dense mask that is too large is not built.
static void test_sizes(void **state) {
  assert_int_equal(run("--kind causal_document --seqlen 1024 --sizes"), 0);
  static const char header[] = "mask,seqlen,seed,draw,representation,bytes,build_ms,reason\n";
  assert_memory_equal(capture_out, header, sizeof header - 1);
  assert_non_null(strstr(capture_out, "\ncausal_document,1024,42,0,dense,131072,"));
  assert_non_null(strstr(capture_out, "\ncausal_document,1024,42,0,spans,120,")); // 4 documents
  assert_non_null(strstr(capture_out, ",varblock,,,\"varblock: "));
  assert_int_equal(run("--kind causal --seqlen 128K --sizes --draws 2"), 0);
  assert_non_null(strstr(capture_out, "\ncausal,131072,42,1,dense,2147483648,,\n"));
  assert_non_null(strstr(capture_out, "\ncausal,131072,42,1,spans,48,"));
}

static void test_options(void **state) {
  assert_int_equal(run("--kind full_document --seqlen 8192 --histogram prolong64k --csv"), 0);
  assert_non_null(strstr(capture_out, "full_document,8192,42,0,prolong64k,545 719 166"));
  assert_int_equal(run("--kind full_document --seqlen 64K --distributed --csv"), 0);
  assert_non_null(strstr(capture_out, ",prolong512k,"));
  assert_int_equal(run("--kind causal_document --seqlen 1024 --draw 2 --csv"), 0);
  assert_non_null(strstr(capture_out, "causal_document,1024,42,2,pile,618 406,,,273892\n"));
  assert_int_equal(run("--kind block_causal_document --seqlen 64 --block 16 --csv"), 0);
  assert_non_null(
      strstr(capture_out, ",pile,32 16 16,,,1280\n")); // 2 1 1 blocks, as study 1.5 at 4096
  assert_int_equal(run("--kind uniform_block_sparse --seqlen 256 --block 64 --ratio 0.25 --csv"),
                   0);
  assert_non_null(strstr(capture_out, "uniform_block_sparse,256,42,0,,,,,16384\n"));
  assert_int_equal(run("--help"), 0);
  assert_non_null(strstr(capture_out, "usage: longca mask"));
}

// Bad input: exit code 2, nothing on stdout, one sentence on stderr.
static void test_refusals(void **state) {
  static const char *const bad[][2] = {
      {"", "--kind is missing"},
      {"--kind foo", "unknown mask 'foo'; the masks are full, causal"},
      {"--kind", "needs a value"},
      {"--kind full", "--seqlen is missing"},
      {"--kind full --seqlen 0", "'0'"},
      {"--kind full --seqlen 3G", "'3G'"},
      {"--kind full --seqlen 2048M", "'2048M'"},
      {"--kind full --seqlen 8 --seed -1", "--seed"},
      {"--kind full --seqlen 8 --ratio nan", "--ratio"},
      {"--kind full --seqlen 8 --foo", "unknown option '--foo'"},
      {"--kind full --seqlen 8 x", "'x'"},
      {"--kind full --seqlen 8 --matrix 9", "--matrix"},
      {"--kind full --seqlen 8 --csv --sizes", "choose one of"},
      {"--kind full --seqlen 8 --head 1", "--heads-kv"},
      {"--kind causal_document --seqlen 8 --histogram c4", "pile, prolong512k, prolong64k"},
      {"--kind block_causal_document --seqlen 1000", "multiple of its block, 1024"},
      {"--kind block_causal_document --seqlen 1000 --csv", "multiple of its block, 1024"},
  };
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
    capture_refusal(cmd_mask, "mask", bad[i][0], bad[i][1]);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_csv),     cmocka_unit_test(test_picture),  cmocka_unit_test(test_sizes),
      cmocka_unit_test(test_options), cmocka_unit_test(test_refusals),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
