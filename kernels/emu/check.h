// check.h -- what the emulated GPU tells its sanitizer (README.md): accesses, and what orders them.
//
// Compiled with EMU_CHECK these are the functions of check.cpp (which memory), check_order.cpp
// (what is ordered before what) and check_product.cpp (registers); without, nothing. An access is
// made by an agent: a thread, or what works beside threads on a thread's or a warp's behalf, in
// groups that complete in order.
#ifndef LONGCA_EMU_CHECK_H
#define LONGCA_EMU_CHECK_H

#include <stddef.h>
#include <stdint.h>

#ifdef EMU_CHECK
#include <string>
#define EMU_HOOK(...) __VA_ARGS__;
#else
#define EMU_HOOK(...) \
  static inline __VA_ARGS__ {}
#endif
#define EMU_CALLER __builtin_return_address(0) // in the kernel, whose source line a report names

namespace emu {

uint32_t operand_address(uint64_t desc, int row, int column); // async.cpp

namespace check {

enum agent {
  THREAD,
  COPIES,    // cp.async of a thread: the generic proxy, and from here on the asynchronous one
  BULK_READ, // bulk reductions and stores of a thread: their reads of shared memory
  BULK,      // and all they do
  PRODUCTS,  // wgmma of a warp
  ENGINE,    // copies that complete on an mbarrier
  AGENTS
};
enum access { READ, WRITE, ATOMIC };

// check.cpp
EMU_HOOK(void allocated(const void *p, size_t bytes))
EMU_HOOK(void freed(const void *p))
EMU_HOOK(void launched())
EMU_HOOK(void block_begin(const char *stacks, size_t stack_bytes, const char *shared, size_t begin,
                          size_t end))
// By the running thread: in its group `group` of such operations, or that completes on the barrier.
EMU_HOOK(void touch(agent by, int group, const void *p, size_t bytes, access how, const void *pc))
EMU_HOOK(void touch_by_engine(const uint64_t *bar, const void *p, size_t bytes, access how,
                              const void *pc))

// check_product.cpp: registers between wgmma's fence, the product and the wait; what a warpgroup
// does alike.
EMU_HOOK(void registers_fence())
EMU_HOOK(void product(float *d, int n, const uint32_t *a, int group, const void *pc))
EMU_HOOK(void operand(uint64_t desc, int row, int rows, int columns, int group, const void *pc))
EMU_HOOK(void products_wait(int groups))
EMU_HOOK(void same_in_warpgroup(uint64_t a_desc, uint64_t b_desc, int n, bool transposed, bool keep,
                                const void *pc))
EMU_HOOK(void block_end())

// check_order.cpp. An object that threads synchronise by: a barrier.
EMU_HOOK(void arrive(const void *object))
EMU_HOOK(void complete(const void *object))
EMU_HOOK(void leave(const void *object))
EMU_HOOK(void sync_lanes(unsigned mask, bool vote))
EMU_HOOK(void groups_done(agent of, int groups)) // of the running thread: it knows
EMU_HOOK(void fence_proxy())
EMU_HOOK(void mbarrier_init(const uint64_t *bar, const void *pc))
EMU_HOOK(void mbarrier_fence())
EMU_HOOK(void mbarrier_used(const uint64_t *bar, bool by_engine, const void *pc))

#ifdef EMU_CHECK
// Between these files.
struct entry { // an access that later ones may have to come after
  uint64_t pc : 48, slot : 16;
  uint32_t epoch : 30, async : 1, atomic : 1;
};
void order_begin(size_t shared_bytes);
std::string name_of(const entry &e);
void track(agent by, int group, const uint64_t *bar, size_t offset, size_t bytes, access how,
           const void *pc);
std::string shared_place(ptrdiff_t offset); // offsets begin where dynamic shared memory does
void products_begin(const char *stacks, size_t bytes);
void touch_register(const void *p, size_t bytes, access how, const void *pc);
void say(uint64_t pc, const entry *before, const std::string &text);
void report(const char *what, const std::string &place, size_t bytes, access how, const entry &now,
            const entry *before);

// For check_test.cpp: reports so far. A program that has some at its end fails.
int reports();
const char *last_report();
void forget_reports();
#endif

} // namespace check
} // namespace emu
#endif
