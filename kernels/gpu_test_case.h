// gpu_test_case.h -- one attention on the GPU, compared with the double reference (src/check.h): what
// the parts of gpu_test share.
//
// Inputs are fresh random numbers in every case, outputs start as NaN, and what lies behind each
// output must be untouched afterwards.
#ifndef LONGCA_GPU_TEST_CASE_H
#define LONGCA_GPU_TEST_CASE_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../src/check.h"
#include "../src/device.h"
#include "../src/ref.h"
#include "../src/tensor.h"
#include "attn.h"
#include "rep/cases.h"

struct gpu_test {
  const char *name;
  CMUnitTestFunction run; // its state points to the kernel's place in the registry
};
extern const struct gpu_test gpu_mask_tests[], gpu_call_tests[], gpu_split_tests[],
    gpu_explode_tests[], gpu_owner_tests[]; // each ends with a name that is NULL

// Where the tests run, said by gpu_test.c.
extern struct gpu_test_where {
  int arch;      // of the GPU; 0: none
  bool quick;    // LONGCA_TEST_QUICK: few and small cases, for compute-sanitizer and the emulation
  bool emulated; // kernels/emu: correct, but slow and without times
} where;

// The kernel of a test, which is skipped with the reason where it cannot run here.
const struct attn_kernel *kernel_of(void **state);
// Skips, saying "<kernel>: <why>".
void skip_because(const struct attn_kernel *kernel, const char *why);

// One tensor in both memories, all bytes 0xff, with a guard behind it.
struct pair {
  void *host, *device;
  size_t bytes;
};
struct pair pair_make(size_t bytes);
void pair_upload(const struct pair *t);
void pair_download(const struct pair *t); // and fails if the guard was written
void pair_free(struct pair *t);

enum { Q, K, V, D_O, O, LSE, DQ, DK, DV, TENSORS };
struct bench {
  struct attn_problem p;
  struct pair t[TENSORS];
  int64_t n_q, n_k; // elements of q and of k
};
void bench_make(struct bench *b, const struct attn_problem *p);
void bench_free(struct bench *b);
struct attn_args bench_args(const struct bench *b, bool device);
// Both passes on the device, results on the host. 0, or -1 with attn_error().
int bench_run(struct bench *b, const struct attn_kernel *kernel);
// One pass of a given plan; its results on the host.
void bench_pass(struct bench *b, struct attn_plan *plan, enum attn_pass pass);
// The bench's outputs of a pass are right for `truth`.
void bench_expect(const struct bench *b, const struct attn_kernel *kernel, enum attn_pass pass,
                  const struct attn_problem *truth, const char *what);
// to [n] bf16 = from [n] fp32 - less
void round_to_host(void *to, const void *from, int64_t n, float less);

// Both passes of a plan of its own are right. variant: of the mask, for the message.
void expect_right(const struct attn_kernel *kernel, const struct attn_problem *p, int variant);

// The problem for a whole mask, heads 64:8, 8:1 or 64:64 (head 0, 1, 2), or false when this kernel does
// not take it. Block-sparse masks bring as many KV heads as they have patterns.
bool make_problem(const struct attn_kernel *kernel, const struct mask *m, int head, int dim,
                  struct attn_problem *p);

#endif
