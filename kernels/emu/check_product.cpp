// check_product.cpp -- wgmma under the sanitizer of the emulated GPU (PTX ISA 8.0, section 9.7.14):
// registers between its fence, the product and the wait, and what the four warps of a warpgroup
// must do alike.
//
// Registers that products own are arrays on a fibre's stack. Word by word is kept after which
// wgmma.fence of its thread one was last accessed. A product may not take what was accessed since
// the last fence; until it is waited for, nobody may touch its accumulator or write the registers
// of A. (The manual forbids to read those, too; hardware holds them until they are written, and
// backward.cuh reads P beside P^T dO.)
#ifdef EMU_CHECK
#include <sys/mman.h>

#include <algorithm>

#include "block.h"
#include "check.h"

namespace emu {
namespace check {
namespace {

struct flight { // registers that a product owns
  const char *begin, *end;
  bool accumulator;
  int group;
};
struct operands {
  uint64_t a, b;
  int n;
  bool transposed, keep;
  bool operator!=(const operands &x) const {
    return a != x.a || b != x.b || n != x.n || transposed != x.transposed || keep != x.keep;
  }
};
struct registers_of {
  std::vector<flight> flights;
  uint32_t fence; // the last one; 0: none yet
};

struct state {
  const char *stacks;
  uint32_t *stamp; // by word of the stacks: the fence after which it was accessed
  uint32_t fences; // so far, of all blocks, so that no older block's stamp counts
  std::vector<registers_of> threads;
  std::vector<std::vector<operands>> products; // by warpgroup: of the warp that is ahead
  std::vector<size_t> products_of;             // by warp
};
thread_local state now;

unsigned self() { return running->self->at.thread.x; }
entry by_thread(const void *pc) { return {(uint64_t)pc, (uint16_t)self(), 0, 0, 0}; }
uint32_t *stamp_of(const void *p) { return now.stamp + ((const char *)p - now.stacks) / 4; }

void take(const void *p, int words, bool accumulator, int group, const void *pc) {
  registers_of &r = now.threads[self()];
  const char *const begin = (const char *)p, *const end = begin + 4 * (size_t)words;
  for (flight &f : r.flights)
    if (f.begin == begin && f.end == end &&
        f.accumulator == accumulator) { // a chain needs no fence
      f.group = group;
      return;
    }
  if (!r.fence || std::find(stamp_of(begin), stamp_of(end), r.fence) != stamp_of(end))
    report(r.fence ? "no wgmma.fence since registers of a product were accessed" : "no wgmma.fence",
           "its registers", (size_t)(end - begin), accumulator ? WRITE : READ, by_thread(pc), NULL);
  r.flights.push_back({begin, end, accumulator, group});
}

} // namespace

void products_begin(const char *stacks, size_t bytes) {
  if (!now.stamp) {
    now.stamp = (uint32_t *)mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (now.stamp == MAP_FAILED)
      fault("no memory to check registers with");
  }
  now.stacks = stacks;
  now.threads.assign(running->fibres.size(), {});
  now.products.assign((running->warps.size() + 3) / 4, {});
  now.products_of.assign(running->warps.size(), 0);
}

void block_end() {
  for (size_t w = 0; w < running->warps.size(); w++) {
    const int has = running->fibres[w * WARP].registers,
              first = running->fibres[w / 4 * 4 * WARP].registers;
    if (has != first)
      say(1, NULL,
          "setmaxnreg by some warps of a warpgroup: warp " + std::to_string(w) + " ends with " +
              std::to_string(has) + " registers, the first with " + std::to_string(first));
    if (now.products_of[w] != now.products[w / 4].size())
      say(2, NULL,
          "a product by some warps of a warpgroup: warp " + std::to_string(w) + " took part in " +
              std::to_string(now.products_of[w]) + " of " +
              std::to_string(now.products[w / 4].size()));
  }
}

void touch_register(const void *p, size_t bytes, access how, const void *pc) {
  const registers_of &r = now.threads[self()];
  const char *const at = (const char *)p;
  for (const flight &f : r.flights)
    if (at < f.end && at + bytes > f.begin && (f.accumulator || how != READ)) {
      report(f.accumulator
                 ? "an accumulator is touched before its product is waited for"
                 : "registers of operand A are written before their product is waited for",
             "a register", bytes, how, by_thread(pc), NULL);
      break;
    }
  std::fill(stamp_of(at), stamp_of(at + bytes - 1) + 1, r.fence);
}

void registers_fence() { now.threads[self()].fence = ++now.fences; }

void product(float *d, int n, const uint32_t *a, int group, const void *pc) {
  take(d, n / 2, true, group, pc);
  if (a)
    take(a, 4, false, group, pc);
}

void operand(uint64_t desc, int row, int rows, int columns, int group, const void *pc) {
  for (int r = row; r < row + rows; r++)
    for (int c = 0; c < columns; c += 8)
      touch(PRODUCTS, group, shared_pointer(operand_address(desc, r, c)), 16, READ, pc);
}

void products_wait(int groups) {
  auto &x = now.threads[self()].flights;
  x.erase(std::remove_if(x.begin(), x.end(), [&](const flight &f) { return f.group < groups; }),
          x.end());
}

void same_in_warpgroup(uint64_t a_desc, uint64_t b_desc, int n, bool transposed, bool keep,
                       const void *pc) {
  const size_t w = self() / WARP, i = now.products_of[w]++;
  auto &all = now.products[w / 4];
  const operands one = {a_desc, b_desc, n, transposed, keep};
  if (i == all.size())
    all.push_back(one);
  else if (all[i] != one)
    say((uint64_t)pc, NULL,
        "warps of a warpgroup disagree about the operands of product " + std::to_string(i));
}

} // namespace check
} // namespace emu
#endif
