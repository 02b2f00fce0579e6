// emu_ptx.h -- kernels/ptx for the emulated GPU (emu.h): the same functions, what the instructions do.
//
// What is asynchronous on a GPU is so here: a copy or a product happens at once or as late as the program
// allows, by a seeded coin (async.cpp). Its destination holds NaN until then, and its sources are read
// then, so that a wait that is missing shows in the result.
#ifndef LONGCA_EMU_PTX_H
#define LONGCA_EMU_PTX_H

// In place of the real ones.
#define LONGCA_PTX_BULK_CUH
#define LONGCA_PTX_MATH_CUH
#define LONGCA_PTX_MMA_CUH
#define LONGCA_PTX_SYNC_CUH
#define LONGCA_PTX_TMA_CUH
#define LONGCA_PTX_WGMMA_CUH

#include <cuda.h>
#include <stdint.h>

namespace emu {

// barrier.cpp
void mbarrier_init(uint64_t *bar, uint32_t arrivals);
void mbarrier_arrive(uint64_t *bar, uint32_t expect_bytes);
bool mbarrier_done(const uint64_t *bar, uint32_t parity);
void mbarrier_wait(uint64_t *bar, uint32_t parity);
void mbarrier_init_fence();
void fence_async();
bool barrier(int id, int threads, bool wait, bool mine); // whether `mine` held for any
void wait_for_word(const int32_t *word, int32_t value);  // which another block writes
void registers(int count);

// async.cpp
void copy_tile(void *dst, const CUtensorMap *map, const int (&at)[4], uint32_t rank, uint64_t *bar);
void store_tile(const CUtensorMap *map, const void *src, const int (&at)[4]); // of four dimensions
void add_f32(float *dst, const float *src, uint32_t bytes);
void bulk_commit();
void bulk_wait(int groups, bool read_only); // read_only: of what was read only
void copy_async(uint32_t shared, const void *src, int bytes, bool there);
void copy_async_commit();
void copy_async_wait(int groups);
// One lane's part of a product of 64 x n x 16: d [n / 2]; a: four registers, or NULL and its descriptor.
void wgmma(float *d, int n, const uint32_t *a, uint64_t a_desc, uint64_t b_desc, bool b_transposed,
           bool keep);
void wgmma_fence();
void wgmma_commit();
void wgmma_wait(int groups);

// matrix.cpp
void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
void ldmatrix(uint32_t (&d)[4], uint32_t shared, bool transposed);
void stmatrix(void *row, const uint32_t (&d)[4], bool transposed);
void add_global(float *dst, float x);
long long global_ns();

} // namespace emu

namespace ptx {

// sync.cuh
static inline uint32_t smem_addr(const void *p) { return emu::shared_address(p); }
static inline void mbarrier_init(uint64_t *bar, uint32_t arrivals) {
  emu::mbarrier_init(bar, arrivals);
}
static inline void mbarrier_init_fence() { emu::mbarrier_init_fence(); }
static inline void mbarrier_arrive(uint64_t *bar) { emu::mbarrier_arrive(bar, 0); }
static inline void mbarrier_arrive_expect(uint64_t *bar, uint32_t bytes) {
  emu::mbarrier_arrive(bar, bytes);
}
static inline void mbarrier_wait(uint64_t *bar, uint32_t parity) {
  emu::mbarrier_wait(bar, parity);
}
static inline bool mbarrier_test(uint64_t *bar, uint32_t parity) {
  const bool done = emu::mbarrier_done(bar, parity);
  if (done)
    emu::mbarrier_wait(bar, parity); // has seen what it stands for
  return done;
}
static inline void mbarrier_wait_by_warp(uint64_t *bar, uint32_t parity, bool) {
  emu::mbarrier_wait(bar, parity);
}
static inline void barrier_sync(int id, int threads) { emu::barrier(id, threads, true, false); }
static inline void barrier_arrive(int id, int threads) { emu::barrier(id, threads, false, false); }
static inline bool barrier_any(int id, int threads, bool mine) {
  return emu::barrier(id, threads, true, mine);
}
static inline int4 load_shared(const void *p) { return *static_cast<const int4 *>(p); }
static inline int load_relaxed(const int32_t *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
static inline void store_relaxed(int32_t *p, int v) { __atomic_store_n(p, v, __ATOMIC_RELAXED); }
template<class T> static inline T load_ahead(const T *p) { return *p; }
static inline int load_shared_int(const int *p) { return *p; }
static inline void store_shared_int(int *p, int v) { *p = v; }
static inline void count_after_bulk(int32_t *count) {
  __atomic_fetch_add(count, 1, __ATOMIC_RELEASE);
}
static inline bool count_is(const int32_t *count, int32_t n) {
  return __atomic_load_n(count, __ATOMIC_ACQUIRE) == n;
}
static inline void wait_for_count(const int32_t *count, int32_t n) { emu::wait_for_word(count, n); }
static inline void store_release(int32_t *count, int32_t n) {
  __atomic_store_n(count, n, __ATOMIC_RELEASE);
}
static inline int32_t count_arrival(int32_t *count) {
  return __atomic_fetch_add(count, 1, __ATOMIC_ACQ_REL);
}
static inline int same_in_warp(int x) { return x; }
template<int Registers> static inline void registers_give() { emu::registers(Registers); }
template<int Registers> static inline void registers_take() { emu::registers(Registers); }
static inline int thread_now() { return (int)threadIdx.x; }

// math.cuh
static inline float flushed(float x) { return fabsf(x) < 1.17549435e-38f ? copysignf(0, x) : x; }
static inline float ex2(float x) { return flushed(exp2f(flushed(x))); }
static inline float lg2(float x) { return log2f(flushed(x)); }
static inline float zero() { return 0; }
static inline float rcp(float x) { return flushed(1 / flushed(x)); }
static inline uint32_t pack_bf16(float lo, float hi) {
  const __nv_bfloat16 l = __float2bfloat16_rn(lo), h = __float2bfloat16_rn(hi);
  uint16_t bits[2];
  memcpy(&bits[0], &l, 2);
  memcpy(&bits[1], &h, 2);
  return (uint32_t)bits[1] << 16 | bits[0];
}
static inline long long global_ns() { return emu::global_ns(); }
static inline unsigned sm_id() { return 0; }

// mma.cuh
static inline void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  emu::mma(d, a, b0, b1);
}
static inline void ldmatrix(uint32_t (&d)[4], uint32_t smem) { emu::ldmatrix(d, smem, false); }
static inline void ldmatrix_trans(uint32_t (&d)[4], uint32_t smem) { emu::ldmatrix(d, smem, true); }
static inline void copy_async_16(uint32_t smem, const void *src, bool there) {
  emu::copy_async(smem, src, 16, there);
}
static inline void copy_async_4(uint32_t smem, const void *src, bool there) {
  emu::copy_async(smem, src, 4, there);
}
static inline void copy_async_commit() { emu::copy_async_commit(); }
template<int N> static inline void copy_async_wait() { emu::copy_async_wait(N); }
static inline void reduce_add_4(float *dst, float x, float y, float z, float w) {
  const float v[4] = {x, y, z, w};
  for (int i = 0; i < 4; i++)
    emu::add_global(dst + i, v[i]);
}

// bulk.cuh, tma.cuh
static inline void bulk_add_f32(float *dst, const void *src, uint32_t bytes) {
  emu::add_f32(dst, static_cast<const float *>(src), bytes);
}
static inline void bulk_commit() { emu::bulk_commit(); }
template<int N> static inline void bulk_wait_read() { emu::bulk_wait(N, true); }
template<int N> static inline void bulk_wait() { emu::bulk_wait(N, false); }
static inline void fence_async_shared() { emu::fence_async(); }
static inline void add_f32x2(float *dst, float a, float b) {
  emu::add_global(dst, a);
  emu::add_global(dst + 1, b);
}
static inline void stmatrix_x4(void *row, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  emu::stmatrix(row, {a, b, c, d}, false);
}
static inline void stmatrix_x4_trans(void *row, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  emu::stmatrix(row, {a, b, c, d}, true);
}
static inline void tma_prefetch_map(const CUtensorMap *) {}
static inline void prefetch_line(const void *) {}
static inline void tma_load_1d(void *dst, const CUtensorMap *map, int c0, uint64_t *bar) {
  const int at[4] = {c0, 0, 0, 0};
  emu::copy_tile(dst, map, at, 1, bar);
}
static inline void tma_load_4d(void *dst, const CUtensorMap *map, int c0, int c1, int c2, int c3,
                               uint64_t *bar) {
  const int at[4] = {c0, c1, c2, c3};
  emu::copy_tile(dst, map, at, 4, bar);
}
static inline void tma_store_4d(const CUtensorMap *map, const void *src, int c0, int c1, int c2,
                                int c3) {
  emu::store_tile(map, src, {c0, c1, c2, c3});
}

// wgmma.cuh
struct wgmma_desc {
  uint32_t lo, hi;
  wgmma_desc(const void *tile, uint32_t lead_bytes)
      : lo((smem_addr(tile) & 0x3ffff) >> 4 | (lead_bytes >> 4) << 16), hi(1024 >> 4 | 1u << 30) {}
  wgmma_desc from(uint32_t bytes) const {
    wgmma_desc d = *this;
    d.lo += bytes >> 4;
    return d;
  }
  uint64_t at(uint32_t bytes) const { return (uint64_t)hi << 32 | (lo + (bytes >> 4)); }
};
static inline void wgmma_fence() { emu::wgmma_fence(); }
static inline void wgmma_commit() { emu::wgmma_commit(); }
template<int N> static inline void wgmma_wait() { emu::wgmma_wait(N); }
template<class T, int N> static inline void wgmma_pin(T (&d)[N]) {
  asm volatile("" : : "r"(d) : "memory"); // in memory, where products read and write it
}
template<int N, int TB> struct wgmma_op {
  static void ss(float (&d)[N / 2], uint64_t a, uint64_t b, int keep) {
    emu::wgmma(d, N, nullptr, a, b, TB, keep);
  }
  static void rs(float (&d)[N / 2], const uint32_t *a, uint64_t b, int keep) {
    emu::wgmma(d, N, a, 0, b, TB, keep);
  }
};

} // namespace ptx
#endif
