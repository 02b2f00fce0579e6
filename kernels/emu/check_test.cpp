// check_test.cpp -- does the sanitizer of the emulated GPU find what is missing, and nothing where
// all is there? Small kernels in the ways of the real ones; each fault takes one step out, or puts
// it elsewhere. Compiled as the kernels are.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

extern "C" {
#include <cmocka.h>
}

#include "../wgmma/tensor_map.h"
#include "check.h"

enum fault {
  NONE,
  NO_SYNCTHREADS,
  SHUFFLE_FOR_SYNCWARP,
  ARRIVES_BEFORE_WRITING, // named barriers
  READS_AFTER_GIVING_BACK,
  NO_INIT_FENCE, // mbarriers and the copy engine
  NO_SYNC_AFTER_INIT,
  NO_FULL_WAIT,
  RELEASES_BEFORE_READING,
  RELEASES_FOR_OTHERS, // one lane, while those beside it may still read
  NO_EMPTY_WAIT,
  OTHER_BARRIER,
  NO_PROXY_FENCE, // bulk reductions
  FENCE_BEFORE_WRITING,
  NO_BULK_WAIT,
  WAITS_FOR_ANOTHER_GROUP,
  NO_COPY_WAIT, // cp.async
  COPY_WAIT_AFTER_BARRIER,
  NO_OPERAND_FENCE, // wgmma
  NO_WGMMA_FENCE,
  NO_WGMMA_WAIT,
  WRITES_A_IN_FLIGHT,
  WRITES_OPERAND_IN_FLIGHT,
  ONE_WARP_ELSEWHERE,
  THREE_WARPS,
  THREE_WARPS_GIVE_REGISTERS,
  ONE_BEHIND_GLOBAL, // memory
  FREED,
  HOST_MEMORY,
  ONE_BEHIND_SHARED,
  MAP_BEHIND_GLOBAL,
};

struct block_memory {
  alignas(1024) uint16_t a[64 * 64], b[64 * 64];
  alignas(128) float line[256];
  float scale; // beside what the copy engine brings, an ordinary store
  uint64_t full[2], empty[2];
};
struct arguments {
  int fault;
  const float *in; // [256]
  float *out;      // [256]
  CUtensorMap map; // of in: boxes of 128
};

#define UNLESS(f) if (p.fault != f)
#define IF(f) if (p.fault == f)

static __device__ block_memory &memory() {
  extern __shared__ char raw[];
  const uintptr_t at = (reinterpret_cast<uintptr_t>(raw) + 1023) & ~uintptr_t(1023);
  return *reinterpret_cast<block_memory *>(at);
}

static __global__ void threads_kernel(arguments p) {
  block_memory &s = memory();
  const int t = threadIdx.x;
  s.line[t] = p.in[t];
  UNLESS(NO_SYNCTHREADS) __syncthreads();
  p.out[t] = s.line[blockDim.x - 1 - t];
  __syncthreads();
  s.line[t] = 1;
  IF(SHUFFLE_FOR_SYNCWARP) __shfl_xor_sync(~0u, 1, 1);
  else __syncwarp();
  p.out[t] += s.line[t ^ 1];
  __syncthreads();
  IF(ONE_BEHIND_GLOBAL) p.out[t] = p.in[t + 1];
  IF(FREED) p.out[t] = p.in[t];
  IF(HOST_MEMORY) p.out[t] = p.in[t];
  IF(ONE_BEHIND_SHARED) p.out[t] = reinterpret_cast<char *>(&s)[sizeof s];
}

// The first warpgroup writes, the second reads, twice over.
static __global__ void named_kernel(arguments p) {
  block_memory &s = memory();
  const int t = threadIdx.x % 128;
  for (int i = 0; i < 2; i++)
    if (threadIdx.x < 128) {
      if (i)
        ptx::barrier_sync(2, 256);
      IF(ARRIVES_BEFORE_WRITING) ptx::barrier_arrive(1, 256);
      s.line[t] = p.in[t];
      UNLESS(ARRIVES_BEFORE_WRITING) ptx::barrier_arrive(1, 256);
    } else {
      ptx::barrier_sync(1, 256);
      if (i == 0)
        IF(READS_AFTER_GIVING_BACK) ptx::barrier_arrive(2, 256);
      p.out[t] = s.line[127 - t];
      if (i == 0)
        UNLESS(READS_AFTER_GIVING_BACK) ptx::barrier_arrive(2, 256);
    }
}

// Thread 0 streams by the copy engine through one stage, a warp reads. Faults that could get it
// stuck are made in the last round.
static __global__ void engine_kernel(arguments p) {
  block_memory &s = memory();
  const int t = threadIdx.x;
  if (t == 1) {
    for (int i = 0; i < 2; i++) {
      ptx::mbarrier_init(&s.full[i], 1);
      ptx::mbarrier_init(&s.empty[i], 1);
    }
    UNLESS(NO_INIT_FENCE) ptx::mbarrier_init_fence();
  }
  IF(NO_SYNC_AFTER_INIT) {
    __shfl_sync(~0u, 1, 1);
    if (t == 0)
      ptx::mbarrier_wait(&s.empty[0], 1);
  }
  __syncthreads();
  for (int i = 0; i < 4; i++)
    if (t == 0) {
      ptx::mbarrier_wait(&s.empty[0], i % 2 ^ 1);
      if (i == 3)
        IF(OTHER_BARRIER) ptx::mbarrier_arrive_expect(&s.full[1], 0);
      s.scale = i;
      ptx::mbarrier_arrive_expect(&s.full[0], 1024);
      ptx::tma_load_1d(s.line, &p.map, 0, &s.full[0]);
      ptx::tma_load_1d(s.line + 128, &p.map, 128, &s.full[0]);
      if (i == 3)
        IF(NO_EMPTY_WAIT) ptx::tma_load_1d(s.line, &p.map, 0, &s.full[1]);
    } else if (t >= 32) {
      if (i == 3 && p.fault == OTHER_BARRIER)
        ptx::mbarrier_wait(&s.full[1], 0);
      else if (i < 3 || p.fault != NO_FULL_WAIT)
        ptx::mbarrier_wait(&s.full[0], i % 2);
      __syncwarp(); // or a fault could leave lanes behind that wait for a phase which is past
      IF(RELEASES_BEFORE_READING) if (t == 32 && i < 3) ptx::mbarrier_arrive(&s.empty[0]);
      p.out[t] = s.scale * (s.line[t] + s.line[t + 128]);
      UNLESS(RELEASES_FOR_OTHERS) __syncwarp();
      UNLESS(RELEASES_BEFORE_READING) if (t == 32 && i < 3) ptx::mbarrier_arrive(&s.empty[0]);
    }
}

static __global__ void bulk_kernel(arguments p) {
  block_memory &s = memory();
  const int t = threadIdx.x;
  for (int i = 0; i < 4; i++) {
    float *const half = s.line + i % 2 * 128;
    if (t == 0) {
      UNLESS(NO_BULK_WAIT) {
        IF(WAITS_FOR_ANOTHER_GROUP) ptx::bulk_wait_read<2>();
        else ptx::bulk_wait_read<1>();
      }
    }
    __syncthreads();
    IF(FENCE_BEFORE_WRITING) ptx::fence_async_shared();
    half[t] = t;
    UNLESS(NO_PROXY_FENCE) UNLESS(FENCE_BEFORE_WRITING) ptx::fence_async_shared();
    __syncthreads();
    if (t == 0) {
      ptx::bulk_add_f32(p.out, half, 512);
      ptx::bulk_commit();
    }
  }
  if (t == 0)
    ptx::bulk_wait<0>();
}

static __global__ void copies_kernel(arguments p) {
  block_memory &s = memory();
  const int t = threadIdx.x;
  ptx::copy_async_4(ptx::smem_addr(s.line + t), p.in + t, t != 5);
  ptx::copy_async_commit();
  UNLESS(NO_COPY_WAIT) UNLESS(COPY_WAIT_AFTER_BARRIER) ptx::copy_async_wait<0>();
  __syncthreads();
  IF(COPY_WAIT_AFTER_BARRIER) ptx::copy_async_wait<0>();
  p.out[t] = s.line[t ^ 64];
}

static __global__ void products_kernel(arguments p) {
  block_memory &s = memory();
  const int t = threadIdx.x, warp = t / 32;
  float d[32];
  uint32_t a[4] = {};
  for (int i = t; i < 64 * 64; i += 128)
    s.a[i] = s.b[i] = 0x3f80;
  for (int i = 0; i < 32; i++)
    d[i] = 0;
  UNLESS(NO_OPERAND_FENCE) ptx::fence_async_shared();
  __syncthreads();
  IF(THREE_WARPS_GIVE_REGISTERS) {
    if (warp != 3)
      ptx::registers_give<64>();
  } else ptx::registers_give<64>();
  const ptx::wgmma_desc left(s.a, 0), right(s.b, 0);
  UNLESS(NO_WGMMA_FENCE) ptx::wgmma_fence();
  const uint64_t rows = left.at(p.fault == ONE_WARP_ELSEWHERE && warp == 2 ? 32 : 0);
  ptx::wgmma_op<64, 0>::ss(d, rows, right.at(0), 0);
  if (p.fault != THREE_WARPS || warp != 1)
    ptx::wgmma_op<64, 0>::rs(d, a, right.at(32), 1);
  ptx::wgmma_commit();
  IF(WRITES_A_IN_FLIGHT) a[1] = t;
  IF(WRITES_OPERAND_IN_FLIGHT) s.b[t] = 1;
  UNLESS(NO_WGMMA_WAIT) ptx::wgmma_wait<0>();
  p.out[t] = d[t % 32];
  ptx::wgmma_wait<0>();
}

static void run(void (*kernel)(arguments), int threads, int fault, const char *expected) {
  arguments p = {fault};
  float *in, *host = (float *)calloc(256, sizeof *host);
  assert_int_equal(cudaMalloc((void **)&in, 1024), 0);
  assert_int_equal(cudaMalloc((void **)&p.out, 1024), 0);
  memset(in, 0, 1024), memset(p.out, 0, 1024);
  p.in = in;
  assert_int_equal(tensor_map_line(&p.map, in, fault == MAP_BEHIND_GLOBAL ? 260 : 256, 128), 0);
  IF(HOST_MEMORY) p.in = host;
  IF(FREED) cudaFree(in);
  IF(ONE_BEHIND_GLOBAL) p.in = in + 256 - threads;
  // The block's memory ends where its last byte is.
  emu::operator%(kernel, emu::config(1, threads, sizeof(block_memory) + 1024 - 128)(p));
  UNLESS(FREED) cudaFree(in);
  cudaFree(p.out);
  free(host);
  const int reports = emu::check::reports();
  if (!fault && reports)
    fail_msg("nothing is wrong, but: %s", emu::check::last_report());
  if (fault && (!reports || !strstr(emu::check::last_report(), expected)))
    fail_msg("fault %d: expected '%s', got %s", fault, expected,
             reports ? emu::check::last_report() : "nothing");
  emu::check::forget_reports();
}

#define TEST(name, kernel, threads, ...) \
  static void name(void **) { \
    static const struct { \
      int fault; \
      const char *expected; \
    } each[] = {{NONE, ""}, __VA_ARGS__}; \
    for (const auto &e : each) \
      run(kernel, threads, e.fault, e.expected); \
  }
TEST(test_threads, threads_kernel, 128, {NO_SYNCTHREADS, "a race"},
     {SHUFFLE_FOR_SYNCWARP, "a race"}, {ONE_BEHIND_GLOBAL, "global memory outside"}, {FREED, "global memory outside"},
     {HOST_MEMORY, "global memory outside"}, {ONE_BEHIND_SHARED, "shared memory outside"})
TEST(test_named, named_kernel, 256, {ARRIVES_BEFORE_WRITING, "a race"},
     {READS_AFTER_GIVING_BACK, "a race"})
TEST(test_engine, engine_kernel, 64, {NO_INIT_FENCE, "no fence between an mbarrier"},
     {NO_SYNC_AFTER_INIT, "whose initialisation nothing orders"}, {NO_FULL_WAIT, "a race"},
     {RELEASES_BEFORE_READING, "a race"}, {RELEASES_FOR_OTHERS, "a race"}, {NO_EMPTY_WAIT, "a race"}, {OTHER_BARRIER, "a race"},
     {MAP_BEHIND_GLOBAL, "global memory outside"})
TEST(test_bulk, bulk_kernel, 128, {NO_PROXY_FENCE, "no fence.proxy.async"},
     {FENCE_BEFORE_WRITING, "no fence.proxy.async"}, {NO_BULK_WAIT, "a race"},
     {WAITS_FOR_ANOTHER_GROUP, "a race"})
TEST(test_copies, copies_kernel, 128, {NO_COPY_WAIT, "a race"}, {COPY_WAIT_AFTER_BARRIER, "a race"})
TEST(test_products, products_kernel, 128, {NO_OPERAND_FENCE, "no fence.proxy.async"},
     {NO_WGMMA_FENCE, "no wgmma.fence"}, {NO_WGMMA_WAIT, "an accumulator is touched"},
     {WRITES_A_IN_FLIGHT, "registers of operand A"}, {WRITES_OPERAND_IN_FLIGHT, "a race"},
     {ONE_WARP_ELSEWHERE, "disagree about the operands"}, {THREE_WARPS, "a product by some warps"},
     {THREE_WARPS_GIVE_REGISTERS, "setmaxnreg by some warps"})

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_threads), cmocka_unit_test(test_named),  cmocka_unit_test(test_engine),
      cmocka_unit_test(test_bulk),    cmocka_unit_test(test_copies), cmocka_unit_test(test_products)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
