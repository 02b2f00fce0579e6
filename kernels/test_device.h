// test_device.h -- for test programs that need a device: a test skips where none is there, and a whole program
// where the build has none. Header only; after cmocka's headers.
#ifndef LONGCA_TEST_DEVICE_H
#define LONGCA_TEST_DEVICE_H

#include "../src/device.h"

static inline void need_device(void) {
  if (device_count() == 0 || device_open(0)) {
    print_message("%s\n", device_error());
    skip();
  }
}

static inline void test_nothing(void **state) {
  print_message("%s\n", (const char *)*state);
  skip();
}

// A main that only says why.
static inline int skip_program(const char *why) {
  const struct CMUnitTest tests[] = {cmocka_unit_test_prestate(test_nothing, (void *)why)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}

#endif
