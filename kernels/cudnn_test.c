// cudnn_test.c -- cuDNN has an engine for the graph of every mask that attn_cudnn supports, forward and
// backward, on an H200, in memory O(S) but for the mask: asked of cuDNN itself, without a GPU. The device is
// described to it and fake_driver.c loads the kernels; whether what they compute is right, gpu_test.c says.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "test_device.h"

#ifdef LONGCA_CUDNN
#include "cudnn_attention.h"
#include "rep/cases.h"

static const char h200[] =
    "{\"deviceName\":\"NVIDIA "
    "H200\",\"cudaDeviceId\":0,\"deviceVer\":900,\"multiProcessorCount\":132,"
    "\"driverVer\":13000,\"maxSharedMemoryPerBlockOptin\":232448,\"totalGlobalMem\":150000000000,"
    "\"maxGridSize\":[2147483647,65535,65535],\"maxBlockSize\":[1024,1024,64],\"regsPerBlock\":"
    "65536,"
    "\"smClockRateKHz\":1980000,\"memClockRateKHz\":3201000,\"l2CacheSize\":62914560,\"warpSize\":"
    "32,"
    "\"maxSharedMemoryPerBlock\":49152,\"reservedSharedMemoryPerBlock\":1024,"
    "\"maxRegistersPerSM\":65536,\"pciDeviceId\":0,\"maxCtasPerSM\":32,\"maxThreadsPerBlock\":1024,"
    "\"maxThreadsPerSM\":2048,\"isTccDriver\":0,\"supportCoopLaunch\":1}";

// Bytes of memory that the plan wants, or -1 with the reason.
static int64_t planned(const struct attn_problem *p, bool backward, char reason[200]) {
  static struct attention t;
  static struct graph device;
  int64_t bytes = -1;
  desc plan;
  memset(&device, 0, sizeof device);
  const desc gpu = graph_make(&device, CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR);
  graph_set(&device, gpu, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR,
            sizeof h200 - 1, h200);
  graph_finish(&device, gpu, "describing the GPU");
  assert_int_equal(device.status, 0);
  const struct attention_case c = attention_case(p, backward);
  attention_build(&t, &c);
  if (graph_plan(&t.graph, NULL, gpu, &plan, &bytes))
    bytes = -1;
  snprintf(reason, 200, "%s", t.graph.error);
  graph_destroy(&t.graph);
  graph_destroy(&device);
  return bytes;
}

static struct attn_problem problem_of(const struct mask *m, int heads_q, int dim) {
  return (struct attn_problem){
      .mask = m, .heads_q = heads_q, .heads_kv = 8, .dim = dim, .rows_q = m->seqlen};
}

static void need_version(void) {
  if (cudnnGetVersion() / 100 != 919) {
    print_message("cuDNN is %d: which driver functions it asks for is known of 9.19 alone\n",
                  (int)cudnnGetVersion());
    skip();
  }
}

// Whole tiles and not, GQA and MHA, both head dimensions; documents of one token each among them.
static void test_every_mask_has_a_plan(void **state) {
  static const enum mask_kind kinds[] = {
      MASK_FULL,          MASK_CAUSAL,          MASK_SLIDING_WINDOW,     MASK_SLIDING_WINDOW_CAUSAL,
      MASK_FULL_DOCUMENT, MASK_CAUSAL_DOCUMENT, MASK_FULL_DOCUMENT_LONG, MASK_CAUSAL_DOCUMENT_LONG};
  static const int32_t lengths[] = {1024, 999};
  (void)state;
  need_version();
  for (size_t i = 0; i < 2 * sizeof kinds / sizeof *kinds; i++) {
    const int backward = (int)(i % 2), length = (int)(i / 2 + i) % 2;
    struct mask m;
    char reason[200];
    assert_int_equal(case_mask(&m, kinds[i / 2], lengths[length], i == 9 ? 3 : 0), 0);
    const struct attn_problem p = problem_of(&m, i / 4 % 2 ? 64 : 8, i / 2 % 2 ? 64 : 128);
    const struct attention_case c = attention_case(&p, backward);
    const int64_t bytes = planned(&p, backward, reason);
    print_message("  %-24s %4d, heads %2d:8, dim %3d, %s: %lld bytes\n", mask_name(m.kind),
                  m.seqlen, p.heads_q, p.dim, backward ? "backward" : "forward", (long long)bytes);
    if (bytes < 0)
      fail_msg("%s", reason);
    // Under GQA dK and dV of each query head, in bf16: O(S). Scores would be len / dim times that.
    const int64_t gradients = backward ? 4 * c.batch * c.len * c.heads_q * c.dim : 0;
    assert_true(bytes <= gradients + 4096 * c.batch + (64 << 10));
    mask_free(&m);
  }
}

// A graph that no engine takes is said to be one: the check above can fail.
static void test_no_plan(void **state) {
  struct mask m;
  char reason[200];
  (void)state;
  need_version();
  assert_int_equal(case_mask(&m, MASK_CAUSAL, 1024, 0), 0);
  const struct attn_problem p = problem_of(&m, 8, 132); // not a multiple of 8
  assert_true(planned(&p, true, reason) < 0);
  print_message("  %s\n", reason);
  assert_non_null(strstr(reason, "cuDNN"));
  mask_free(&m);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_every_mask_has_a_plan),
      cmocka_unit_test(test_no_plan),
  };
  return cmocka_run_group_tests_name("cudnn", tests, NULL, NULL);
}

#else

int main(void) { return skip_program("this build is without cuDNN"); }

#endif
