// jit_test.c -- compiling at run time: the cache in memory and in files, errors of a predicate, and what
// the compiler makes of FlexAttention's kernels for every mask and pass, which LONGCA_TEST_ALL=1 prints. Needs
// NVRTC and no GPU.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "test_device.h"

#ifdef LONGCA_CUDA
#include "flex.h"
#include "rep/cases.h"

static const char source[] =
    "#include \"predicate\"\n"
    "template <int N> __global__ void add(int *x) { *x += N + value(); }\n";
static const char three[] = "inline int value() { return 3; }\n";
static char folder[] = "/tmp/longca-jit-XXXXXX";

// Runs a shell command on the folder's only file; its exit status.
static int shell(const char *command) {
  char line[400];
  snprintf(line, sizeof line, "cd %s/longca && %s", folder, command);
  return system(line); // NOLINT(cert-env33-c): a fixed text and a name of mkdtemp's
}

static int skipped(const struct jit_kernel *k) { // without NVRTC there is nothing to test
  if (k || !strstr(attn_error(), "needs NVRTC"))
    return 0;
  print_message("%s\n", attn_error());
  return 1;
}

static void test_cache(void **state) {
  struct jit_kernel *first = jit_compile(source, three, "add<1>");
  if (skipped(first))
    skip();
  assert_non_null(first);
  assert_true(first->bytes > 0 && first->compile_us > 0 && first->registers > 0);
  assert_true(first->spill_bytes == 0 && first->stack_bytes == 0 && !first->from_file);
  assert_ptr_equal(jit_compile(source, three, "add<1>"), first);
  assert_int_equal(shell("test $(ls | wc -l) = 1"), 0);

  const struct jit_kernel before = *first;
  unsigned char *const cubin = malloc(before.bytes);
  assert_non_null(cubin);
  memcpy(cubin, before.cubin, before.bytes);
  jit_forget();
  const struct jit_kernel *again = jit_compile(source, three, "add<1>");
  assert_non_null(again);
  assert_true(again->from_file);
  assert_int_equal(again->bytes, before.bytes);
  assert_memory_equal(again->cubin, cubin, before.bytes);
  assert_int_equal(again->registers, before.registers);
  assert_true(again->compile_us > before.compile_us - 1 &&
              again->compile_us < before.compile_us + 1);
  free(cubin);
}

// A file that is cut short, longer, or altered is compiled anew; a cache that cannot be written is none.
static void test_bad_files(void **state) {
  static const char *const harm[] = {
      "truncate -s -1 *.cubin", "for f in *.cubin; do printf x >>$f; done",
      "truncate -s 10 *.cubin", "truncate -s 0 *.cubin", "sed -i 's/add/bdd/g' *.cubin"};
  if (skipped(jit_compile(source, three, "add<1>")))
    skip();
  for (size_t i = 0; i < sizeof harm / sizeof *harm; i++) {
    assert_int_equal(shell(harm[i]), 0);
    jit_forget();
    const struct jit_kernel *k = jit_compile(source, three, "add<1>");
    assert_non_null(k);
    if (k->from_file)
      fail_msg("a file was taken after: %s", harm[i]);
    jit_forget();
    assert_true(jit_compile(source, three, "add<1>")->from_file);
  }
  jit_forget();
  setenv("XDG_CACHE_HOME", "/proc/nothing", 1);
  assert_false(jit_compile(source, three, "add<1>")->from_file);
  setenv("XDG_CACHE_HOME", folder, 1);
}

// Whatever the cubin depends on is part of the key.
static void test_keys(void **state) {
  char other[sizeof source];
  struct jit_kernel *const k = jit_compile(source, three, "add<1>");
  if (skipped(k))
    skip();
  memcpy(other, source, sizeof source);
  strstr(other, "+=")[0] = '*';
  assert_ptr_not_equal(jit_compile(source, three, "add<2>"), k);
  assert_ptr_not_equal(jit_compile(source, "inline int value() { return 4; }\n", "add<1>"), k);
  assert_ptr_not_equal(jit_compile(other, three, "add<1>"), k);
}

static void test_errors(void **state) {
  static const struct {
    const char *predicate, *says;
  } bad[] = {
      {"inline int value() {\n  return 3 }\n", "predicate(2): error: expected a \";\""},
      {"inline int value() { return thrice; }\n", "identifier \"thrice\" is undefined"},
      {"", "identifier \"value\" is undefined"},
      {"int twice(int x) { return 2 * x; }\ninline int value() { return twice(); }\n",
       "predicate(2)"},
  };
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    const struct jit_kernel *k = jit_compile(source, bad[i].predicate, "add<1>");
    if (skipped(k))
      skip();
    assert_null(k);
    if (!strstr(attn_error(), bad[i].says) || strchr(attn_error(), '\n'))
      fail_msg("not one line that says %s: %s", bad[i].says, attn_error());
  }
  assert_null(jit_compile(source, three, "subtract<1>"));
  assert_non_null(strstr(attn_error(), "subtract"));
  struct jit_kernel *forward;
  assert_int_equal(flex_compile(&forward, NULL, "bool visible_pair(int q) { return true; }"), -1);
  assert_non_null(strstr(attn_error(), "error"));
}

// No spills, no stack, and registers for four blocks of 256 threads a multiprocessor.
static void expect_lean(const char *pass, const struct mask *m, const struct jit_kernel *k) {
  if (getenv("LONGCA_TEST_ALL"))
    print_message("%-8s %-26s %3d registers, %d bytes spilled, %6zu bytes, %5.2f s%s\n", pass,
                  mask_name(m->kind), k->registers, k->spill_bytes, k->bytes, k->compile_us * 1e-6,
                  k->from_file ? " (from file)" : "");
  if (k->spill_bytes || k->stack_bytes || k->registers > 64)
    fail_msg("%s of %s: %d registers, %d bytes spilled, %d of stack", pass, mask_name(m->kind),
             k->registers, k->spill_bytes, k->stack_bytes);
}

static void test_flex(void **state) {
  for (int i = 0; i < MASK_KINDS; i++) {
    struct jit_kernel *forward, *backward;
    struct mask m;
    char predicate[FLEX_PREDICATE];
    assert_int_equal(case_mask(&m, (enum mask_kind)i, 1000, 0), 0);
    flex_predicate(predicate, &m);
    const int status = flex_compile(&forward, &backward, predicate);
    if (status && skipped(NULL))
      skip();
    if (status)
      fail_msg("%s: %s", mask_name(m.kind), attn_error());
    expect_lean("forward", &m, forward);
    expect_lean("backward", &m, backward);
    mask_free(&m);
  }
}

// Masks that differ in what was drawn share their kernels.
static void test_draws(void **state) {
  char one[FLEX_PREDICATE], two[FLEX_PREDICATE];
  for (int kind = 0; kind < MASK_KINDS; kind++) {
    struct mask a, b;
    assert_int_equal(case_mask(&a, kind, 1000, 0), 0);
    assert_int_equal(case_mask(&b, kind, 3000, 0), 0);
    flex_predicate(one, &a);
    flex_predicate(two, &b);
    assert_string_equal(one, two);
    mask_free(&b);
    assert_int_equal(case_mask(&b, kind, 1000, 1), 0); // another side of blocks
    flex_predicate(two, &b);
    const bool sided = kind == MASK_UNIFORM_BLOCK_SPARSE || kind == MASK_BLOCK_CAUSAL_DOCUMENT;
    assert_int_equal(strcmp(one, two) != 0, sided);
    mask_free(&a);
    mask_free(&b);
  }
}

static int begin(void **state) { return !mkdtemp(folder) || setenv("XDG_CACHE_HOME", folder, 1); }
static int end(void **state) {
  jit_forget();
  return shell("rm *.cubin && rmdir ../longca ../../$(basename $(dirname $PWD))");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_cache),  cmocka_unit_test(test_bad_files), cmocka_unit_test(test_keys),
      cmocka_unit_test(test_errors), cmocka_unit_test(test_flex),      cmocka_unit_test(test_draws),
  };
  return cmocka_run_group_tests(tests, begin, end);
}
#else
int main(void) { return skip_program("built without CUDA"); }
#endif
