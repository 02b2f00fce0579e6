// prep_test.h -- what the parts of prep_test share. Test code.
#ifndef LONGCA_PREP_TEST_H
#define LONGCA_PREP_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "attn.h"
#include "rep/cases.h"
#include "rep_device.h"
#include "test_device.h"

// Calls run for every representation, kind and variant at length n; returns how many.
int each_case(int32_t n, void (*run)(const struct rep_ops *ops, const struct mask *m, int variant));

void test_lists(void **state); // prep_test_lists.c

#endif
