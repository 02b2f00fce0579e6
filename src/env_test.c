// env_test.c -- the environment record is JSON with what a reader needs; names are usable as folders.
#include "env.h"

#include <cjson/cJSON.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "progress.h"

static void expect_slug(const char *set, const char *want) {
  char name[64];
  setenv("LONGCA_MACHINE", set, 1);
  assert_string_equal(env_machine(ATTN_HOST, name, sizeof name), want);
  unsetenv("LONGCA_MACHINE");
}

static void names_are_short_and_safe(void **state) {
  expect_slug("AMD EPYC 9575F 64-Core Processor", "amd-epyc-9575f");
  expect_slug("Intel(R) Xeon(R) Platinum 8480+ CPU @ 2.00GHz", "xeon-platinum-8480");
  expect_slug("13th Gen Intel(R) Core(TM) i7-1360P", "13th-gen-core-i7-1360p");
  expect_slug("NVIDIA H200", "h200");
  expect_slug("NVIDIA GeForce RTX 4090", "geforce-rtx-4090");
  expect_slug("../../etc", "etc");
  expect_slug("(((", "machine");
  char name[64], small[8];
  assert_string_not_equal(env_machine(ATTN_HOST, name, sizeof name), "");
  assert_int_equal(strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-"), strlen(name));
  assert_true(strlen(env_machine(ATTN_HOST, small, sizeof small)) < sizeof small);
}

static void record_is_json(void **state) {
  char *text = env_json(ATTN_HOST);
  assert_non_null(text);
  cJSON *j = cJSON_Parse(text);
  assert_non_null(j);
  static const char *const keys[] = {"machine", "place",        "utc", "commit", "dirty",
                                     "cpu",     "memory_bytes", "os",  "gpus",   "build"};
  for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
    if (!cJSON_GetObjectItem(j, keys[i]))
      fail_msg("no '%s' in the record", keys[i]);
  const cJSON *cpu = cJSON_GetObjectItem(j, "cpu");
  assert_true(cJSON_GetObjectItem(cpu, "cores")->valuedouble >= 1);
  assert_true(cJSON_GetObjectItem(j, "memory_bytes")->valuedouble > 1e8);
  const char *model = cJSON_GetObjectItem(cpu, "model")->valuestring;
  assert_true(*model && !strchr(model, '\n'));
  cJSON_Delete(j);
  free(text);
}

static void durations_and_time_left(void **state) {
  char buf[32];
  assert_string_equal(progress_duration(0.4, buf, sizeof buf), "0s");
  assert_string_equal(progress_duration(59.6, buf, sizeof buf), "1m00s");
  assert_string_equal(progress_duration(200, buf, sizeof buf), "3m20s");
  assert_string_equal(progress_duration(7500, buf, sizeof buf), "2h05m");
  struct progress p;
  progress_begin(&p, 4, 100, true);
  assert_true(progress_left_s(&p) == 100);
  progress_step(&p, 40, "", false);
  assert_true(progress_left_s(&p) == 60); // too early to scale
  p.begin_us -= 80e6;                     // the 40 took 80
  const double left_s = progress_left_s(&p);
  assert_true(left_s >= 120 && left_s < 121);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(names_are_short_and_safe),
      cmocka_unit_test(record_is_json),
      cmocka_unit_test(durations_and_time_left),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
