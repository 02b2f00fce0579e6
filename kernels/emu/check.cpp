// check.cpp -- what the sanitizer of the emulated GPU sees (README.md).
//
// gcc's -fsanitize=thread puts a call before each access of the kernels' source; these are the
// functions that are called, in place of libtsan's. By its address an access is one of registers (a
// fibre's stack: check_product.cpp), of shared memory (check_order.cpp), of a live allocation, of
// the emulator itself (parameters, indices, constants), or wrong.
#ifdef EMU_CHECK
#include "check.h"

#include <dlfcn.h>
#include <link.h>
#include <pthread.h>

#include <map>
#include <mutex>
#include <shared_mutex>

#include "block.h"

namespace emu {
namespace check {
namespace {

struct range {
  uintptr_t begin, end;
  bool has(uintptr_t a) const { return a >= begin && a < end; }
  size_t bytes() const { return end - begin; }
};

std::shared_mutex memory_lock;
std::map<uintptr_t, uintptr_t> memory; // live allocations: begin -> end
int memory_changes;
range launcher; // stack of the thread that launched: where parameters lie

struct host_thread {
  range stacks, shared, statics; // shared: of the launch; statics: __shared__ variables
  range near_shared;             // where nothing but shared memory lies
  range allocation;              // the last that was found
  int allocation_changes;        // when
};
thread_local host_thread own;

int find_statics(dl_phdr_info *info, size_t, void *) {
  for (int i = 0; i < info->dlpi_phnum; i++)
    if (info->dlpi_phdr[i].p_type == PT_TLS && info->dlpi_tls_data) {
      const uintptr_t begin = (uintptr_t)info->dlpi_tls_data;
      own.statics = {begin, begin + info->dlpi_phdr[i].p_memsz};
    }
  return 1; // the program itself comes first
}

range allocation_at(uintptr_t a) { // or the one before it
  std::shared_lock<std::shared_mutex> hold(memory_lock);
  const auto after = memory.upper_bound(a);
  return after == memory.begin() ? range{0, 0}
                                 : range{std::prev(after)->first, std::prev(after)->second};
}

bool allocated_at(uintptr_t a, size_t bytes) {
  const int changes = __atomic_load_n(&memory_changes, __ATOMIC_RELAXED);
  if (own.allocation_changes != changes || !own.allocation.has(a)) {
    own.allocation = allocation_at(a);
    own.allocation_changes = changes;
  }
  return own.allocation.has(a) && own.allocation.has(a + bytes - 1);
}

bool of_emulator(uintptr_t a) {
  const auto &f = running->fibres;
  Dl_info constant;
  return launcher.has(a) || (a >= (uintptr_t)f.data() && a < (uintptr_t)(f.data() + f.size())) ||
         dladdr((void *)a, &constant);
}

std::string place_of(uintptr_t a) {
  if (own.near_shared.has(a))
    return shared_place((ptrdiff_t)(a - own.shared.begin));
  const range before = allocation_at(a);
  char text[120];
  snprintf(text, sizeof text, "%#zx, %zu bytes into an allocation of %zu", (size_t)a,
           (size_t)(a - before.begin), before.bytes());
  return before.begin ? text : "an address below every allocation";
}

void touch_at(agent by, int group, const uint64_t *bar, const void *p, size_t bytes, access how,
              const void *pc) {
  const uintptr_t a = (uintptr_t)p;
  if (own.stacks.has(a))
    touch_register(p, bytes, how, pc);
  else if (own.shared.has(a) && own.shared.has(a + bytes - 1))
    track(by, group, bar, a - own.shared.begin, bytes, how, pc);
  else if (own.statics.has(a))
    track(by, group, bar, own.shared.bytes() + (a - own.statics.begin), bytes, how, pc);
  else if (!allocated_at(a, bytes) && !of_emulator(a))
    report(own.near_shared.has(a) ? "shared memory outside of what the launch has"
                                  : "global memory outside of every allocation",
           place_of(a), bytes, how, {(uint64_t)pc, (uint16_t)running->self->at.thread.x, 0, 0, 0},
           NULL);
}

} // namespace

std::string shared_place(ptrdiff_t offset) {
  return "byte " + std::to_string(offset) + " of shared memory (" +
         std::to_string(own.shared.bytes()) + " dynamic)";
}

void allocated(const void *p, size_t bytes) {
  std::unique_lock<std::shared_mutex> hold(memory_lock);
  memory[(uintptr_t)p] = (uintptr_t)p + bytes;
  __atomic_add_fetch(&memory_changes, 1, __ATOMIC_RELAXED);
}
void freed(const void *p) {
  std::unique_lock<std::shared_mutex> hold(memory_lock);
  memory.erase((uintptr_t)p);
  __atomic_add_fetch(&memory_changes, 1, __ATOMIC_RELAXED);
}

void launched() {
  pthread_attr_t attr;
  void *base;
  size_t bytes;
  pthread_getattr_np(pthread_self(), &attr);
  pthread_attr_getstack(&attr, &base, &bytes);
  pthread_attr_destroy(&attr);
  launcher = {(uintptr_t)base, (uintptr_t)base + bytes};
}

void block_begin(const char *stacks, size_t stack_bytes, const char *shared, size_t begin,
                 size_t end) {
  const uintptr_t first = (uintptr_t)shared;
  if (!own.statics.begin)
    dl_iterate_phdr(find_statics, NULL);
  own.stacks = {(uintptr_t)stacks, (uintptr_t)stacks + stack_bytes};
  own.shared = {first + begin, first + end};
  own.near_shared = {first, first + SHARED_MAX + 2048};
  products_begin(stacks, stack_bytes);
  order_begin(end - begin + own.statics.bytes());
}

void touch(agent by, int group, const void *p, size_t bytes, access how, const void *pc) {
  touch_at(by, group, NULL, p, bytes, how, pc);
}
void touch_by_engine(const uint64_t *bar, const void *p, size_t bytes, access how, const void *pc) {
  touch_at(ENGINE, 0, bar, p, bytes, how, pc);
}

} // namespace check
} // namespace emu

// ---- what the compiler calls

#define TOUCH(p, bytes, how) \
  if (emu::running) \
  emu::check::touch(emu::check::THREAD, 0, p, bytes, emu::check::how, EMU_CALLER)
#define TOUCHED(bytes) \
  void __tsan_read##bytes(void *p) { TOUCH(p, bytes, READ); } \
  void __tsan_write##bytes(void *p) { TOUCH(p, bytes, WRITE); } \
  void __tsan_unaligned_read##bytes(void *p) { TOUCH(p, bytes, READ); } \
  void __tsan_unaligned_write##bytes(void *p) { TOUCH(p, bytes, WRITE); }
#define ATOMIC_OP(bits, T, op) \
  T __tsan_atomic##bits##_fetch_##op(T *p, T x, int) { \
    TOUCH(p, bits / 8, ATOMIC); \
    return __atomic_fetch_##op(p, x, __ATOMIC_SEQ_CST); \
  }
#define ATOMICS(bits, T) \
  T __tsan_atomic##bits##_load(T *p, int) { \
    TOUCH(p, bits / 8, ATOMIC); \
    return __atomic_load_n(p, __ATOMIC_SEQ_CST); \
  } \
  void __tsan_atomic##bits##_store(T *p, T x, int) { \
    TOUCH(p, bits / 8, ATOMIC); \
    __atomic_store_n(p, x, __ATOMIC_SEQ_CST); \
  } \
  int __tsan_atomic##bits##_compare_exchange_strong(T *p, T *old, T x, int, int) { \
    TOUCH(p, bits / 8, ATOMIC); \
    return __atomic_compare_exchange_n(p, old, x, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); \
  } \
  int __tsan_atomic##bits##_compare_exchange_weak(T *p, T *old, T x, int a, int b) { \
    return __tsan_atomic##bits##_compare_exchange_strong(p, old, x, a, b); \
  } \
  ATOMIC_OP(bits, T, add) ATOMIC_OP(bits, T, or)

extern "C" {
TOUCHED(1)
TOUCHED(2)
TOUCHED(4)
TOUCHED(8)
TOUCHED(16)
void __tsan_read_range(void *p, size_t bytes) { TOUCH(p, bytes, READ); }
void __tsan_write_range(void *p, size_t bytes) { TOUCH(p, bytes, WRITE); }
ATOMICS(32, uint32_t)
ATOMICS(64, uint64_t)
void __tsan_init() {}
void __tsan_func_entry(void *) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void **, void *) {}
}
#endif
