// table_test.c -- one small table in every format: alignment, escapes, headers of several lines.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "table.h"

static void expect(const struct table *t, enum table_format format, const char *text) {
  char *got = NULL;
  size_t size = 0;
  FILE *f = open_memstream(&got, &size);
  table_print(t, format, f);
  fclose(f);
  assert_string_equal(got, text);
  free(got);
}

static struct table make_table(void) {
  struct table t = table_new(3);
  t.caption = "a < b";
  static const char *const cells[] = {"kernel",     "S",  "fa2\n64", "fa2_x", "16K", "1.5",
                                      "a|b, \"c\"", "1K", "OOM",     "é & <", "512", "–"};
  for (size_t i = 0; i < sizeof cells / sizeof *cells; i++)
    table_add(&t, "%s", cells[i]);
  return t;
}

static void formats_are_as_they_should_be(void **state) {
  struct table t = make_table();
  expect(&t, TABLE_TEXT,
         "a < b\n\n"
         "kernel      S  fa2\n"
         "                64\n"
         "--------  ---  ---\n"
         "fa2_x     16K  1.5\n"
         "a|b, \"c\"   1K  OOM\n"
         "é & <     512    –\n");
  expect(&t, TABLE_MD,
         "a < b\n\n"
         "| kernel   |   S | fa2<br>64 |\n"
         "| -------- | --: | --: |\n"
         "| fa2_x    | 16K | 1.5 |\n"
         "| a\\|b, \"c\" |  1K | OOM |\n"
         "| é & <    | 512 |   – |\n");
  expect(&t, TABLE_TEX,
         "% a < b\n\\begin{tabular}{lrr}\n\\toprule\n"
         "kernel & S & \\shortstack{fa2\\\\64} \\\\\n\\midrule\n"
         "fa2\\_x & 16K & 1.5 \\\\\n"
         "a|b, \"c\" & 1K & OOM \\\\\n"
         "é \\& < & 512 & – \\\\\n\\bottomrule\n\\end{tabular}\n");
  expect(&t, TABLE_CSV,
         "# a < b\nkernel,S,fa2 64\nfa2_x,16K,1.5\n\"a|b, \"\"c\"\"\",1K,OOM\né & <,512,–\n");
  expect(&t, TABLE_HTML,
         "<table>\n<caption>a &lt; b</caption>\n"
         "<thead><tr><th>kernel</th><th class=\"n\">S</th><th "
         "class=\"n\">fa2<br>64</th></tr>\n</thead><tbody>\n"
         "<tr><td>fa2_x</td><td class=\"n\">16K</td><td class=\"n\">1.5</td></tr>\n"
         "<tr><td>a|b, \"c\"</td><td class=\"n\">1K</td><td class=\"n\">OOM</td></tr>\n"
         "<tr><td>é &amp; &lt;</td><td class=\"n\">512</td><td "
         "class=\"n\">–</td></tr>\n</tbody></table>\n");
  table_free(&t);
}

static void odd_shapes_print(void **state) {
  struct table t = table_new(2);
  expect(&t, TABLE_TEXT, "");
  table_add(&t, "a");
  table_add(&t, "b");
  table_add(&t, "only"); // a row that is short: its other cells are empty
  expect(&t, TABLE_CSV, "a,b\nonly,\n");
  table_free(&t);
}

static void formats_have_names(void **state) {
  assert_int_equal(table_format_parse("text"), TABLE_TEXT);
  assert_int_equal(table_format_parse("csv"), TABLE_CSV);
  assert_int_equal(table_format_parse("xls"), -1);
  assert_non_null(strstr(table_formats(), "tex"));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(formats_are_as_they_should_be),
      cmocka_unit_test(odd_shapes_print),
      cmocka_unit_test(formats_have_names),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
