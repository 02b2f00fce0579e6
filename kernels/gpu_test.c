// gpu_test.c -- `make test-gpu`: every device kernel of the registry against the double reference
// (src/check.h) on this machine's GPU; `make test-emulated`: on an emulated one (kernels/emu). Skips with the
// reason where there is none. The tests: gpu_test_*.c.
//
//   LONGCA_TEST_KERNEL=name  that kernel's alone         LONGCA_TEST_QUICK=1  few and small cases
#include "gpu_test_case.h"

enum { TESTS_MAX = 1024 };

// The sampler of device.h: a plausible time, a plausible clock, and the call's own failure passed on.
static int fill_call(void *ctx) {
  void **buffers = ctx;
  return device_fill(buffers[0], 1, 1u << 30);
}
static int failing_call(void *ctx) { return -1; }
static void test_sample(void **state) {
  struct device_info info;
  struct device_sample sample;
  void *buffer;
  if (!where.arch || where.emulated) {
    print_message("%s\n",
                  where.emulated ? "an emulated GPU has no clock of its own" : device_error());
    skip();
  }
  assert_int_equal(device_info(&info), 0);
  assert_int_equal(device_alloc(&buffer, 1u << 30), 0);
  for (int i = 0; i < 3; i++)
    assert_int_equal(device_sample(fill_call, &buffer, &sample), 0);
  print_message("  %s: 1 GiB filled in %.1f us, SM clock %.0f MHz of %.0f, %.0f W\n", info.name,
                sample.time_us, sample.sm_mhz, info.sm_mhz_max, sample.power_w);
  assert_true(sample.time_us > 50 && sample.time_us < 1e5);
  assert_true(sample.sm_mhz > 100 && sample.sm_mhz <= 1.02 * info.sm_mhz_max);
  assert_false(sample.exposed);
  assert_int_equal(device_sample(failing_call, NULL, &sample), -1);
  assert_int_equal(device_sample(fill_call, &buffer, &sample), 0);
  device_free(buffer);
}

// cmocka takes an array: the tests of `each`, for the kernel at place `*place` of the registry.
static size_t add_tests(struct CMUnitTest *tests, size_t n, const struct gpu_test *each,
                        int *place) {
  static char names[TESTS_MAX][64];
  for (; each->name && n < TESTS_MAX; each++, n++) {
    snprintf(names[n], sizeof *names, "%s: %s", attn_kernels[*place]->name, each->name);
    tests[n] =
        (struct CMUnitTest){.name = names[n], .test_func = each->run, .initial_state = place};
  }
  return n;
}

int main(void) {
  static struct CMUnitTest tests[TESTS_MAX] = {{.name = "sample", .test_func = test_sample}};
  static int places[TESTS_MAX];
  const char *only = getenv("LONGCA_TEST_KERNEL");
  struct device_info info;
  size_t n = 1;
  where.quick = getenv("LONGCA_TEST_QUICK") != NULL;
  if (device_count() > 0 && device_open(0) == 0 && device_info(&info) == 0) {
    where.arch = info.arch;
    where.emulated = !strcmp(info.name, "emulated GPU");
  }
  for (int k = 0; attn_kernels[k]; k++)
    if (attn_kernels[k]->place == ATTN_DEVICE && (!only || !strcmp(only, attn_kernels[k]->name))) {
      places[k] = k;
      n = add_tests(tests, n, gpu_mask_tests, &places[k]);
      n = add_tests(tests, n, gpu_call_tests, &places[k]);
      n = add_tests(tests, n, gpu_split_tests, &places[k]);
      n = add_tests(tests, n, gpu_explode_tests, &places[k]);
      n = add_tests(tests, n, gpu_owner_tests, &places[k]);
    }
  return _cmocka_run_group_tests("gpu", tests, n, NULL, NULL);
}
