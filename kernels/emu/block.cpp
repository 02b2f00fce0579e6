// block.cpp -- blocks of the emulated GPU: threads as fibres, meetings of lanes, barriers (PTX ISA 8.0,
// sections 9.7.12.1, 9.7.12.15, 9.7.19.5).
//
// Fibres run one at a time, each until it has to wait. Warps take turns from a random first one, and now and
// then a fibre sits out many turns, so that warps drift as far apart as their barriers let them. If nobody
// can go on, the block is stuck: the message says who waits for what. Dynamic shared memory holds NaN at the
// start, and behind its end a pattern that must be there afterwards; it begins 128 bytes after a multiple of
// 1024, for code that aligns by hand.
#include "block.h"
#include "check.h"

#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <ucontext.h>

#include <map>
#include <string>

namespace emu {

thread_local block *running;

namespace {

enum { STACK = 256 << 10, SHARED_OFFSET = 128, GUARD = 256, AT_BARRIER = 64, AT_MEETING = 4096 };

struct host_thread { // what a thread of the host keeps from block to block
  char *stacks, *shared;
  size_t shared_bytes;
  jmp_buf point[THREADS_MAX]; // where fibre t stopped
  bool made[THREADS_MAX];     // fibre t has a context
  host_thread() : made() {
    stacks = (char *)mmap(NULL, (size_t)STACK * THREADS_MAX, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    shared = (char *)aligned_alloc(1024, SHARED_MAX + 1024 + 1024);
    if (stacks == MAP_FAILED || !shared)
      fault("no memory for %d stacks", THREADS_MAX);
  }
  ~host_thread() {
    munmap(stacks, (size_t)STACK * THREADS_MAX);
    free(shared);
  }
};
thread_local host_thread own;

uint64_t seed() {
  static const char *const text = getenv("LONGCA_EMU_SEED");
  return text ? strtoull(text, NULL, 10) : 1;
}

void to_scheduler() {
  if (!_setjmp(own.point[running->self->at.thread.x]))
    _longjmp(running->scheduler, 1);
}

void run_threads() { // of one block after the other
  for (;;) {
    (*running->body)();
    fibre *f = running->self;
    for (const queue::op &o : f->bulk.ops)
      if (!o.was_read)
        fault("thread %u ends before it has waited for its bulk copies", f->at.thread.x);
    f->bulk.finish(-1);
    f->copies.finish(-1);
    f->ended = true;
    running->live--;
    to_scheduler();
  }
}

void resume(block &b, fibre &f) {
  const unsigned t = f.at.thread.x;
  b.self = &f;
  f.ready = NULL;
  if (_setjmp(b.scheduler))
    return;
  if (own.made[t])
    _longjmp(own.point[t], 1);
  ucontext_t start;
  getcontext(&start);
  start.uc_stack.ss_sp = own.stacks + (size_t)t * STACK;
  start.uc_stack.ss_size = STACK;
  makecontext(&start, run_threads, 0);
  own.made[t] = true;
  setcontext(&start);
}

[[noreturn]] void stuck(const block &b) {
  std::map<std::string, int> waits;
  for (const fibre &f : b.fibres)
    if (!f.ended) {
      char line[120];
      snprintf(line, sizeof line, "%s %#llx", f.what, (unsigned long long)f.detail);
      waits[line]++;
    }
  std::string text;
  for (const auto &[what, threads] : waits)
    text += "\n  " + std::to_string(threads) + " threads wait for " + what;
  const uint3 at = b.fibres[0].at.block;
  fault("block (%u, %u) is stuck:%s", at.x, at.y, text.c_str());
}

work run_block(const config &c, uint3 at, const std::function<void()> &body, uint64_t number) {
  block b = {};
  const int n = (int)(c.block.x * c.block.y * c.block.z);
  b.body = &body;
  b.random = (seed() * 1000003 + number) * 2 + 1;
  b.fibres.resize((size_t)n);
  b.warps.resize((size_t)(n + WARP - 1) / WARP);
  b.live = n;
  running = &b;
  memset(own.shared, 0xff, SHARED_OFFSET + c.shared);
  memset(own.shared + SHARED_OFFSET + c.shared, 0xa5, GUARD);
  own.shared_bytes = c.shared;
  for (int t = 0; t < n; t++) {
    fibre &f = b.fibres[(size_t)t];
    f.at = {{(unsigned)t, 0, 0}, at, c.block, c.grid};
    f.registers = 65536 / n / 8 * 8;
  }
  check::block_begin(own.stacks, (size_t)STACK * THREADS_MAX, own.shared, SHARED_OFFSET, SHARED_OFFSET + c.shared);
  while (b.live > 0) {
    bool progress = false;
    const size_t first = b.draw() % b.warps.size();
    for (size_t i = 0; i < b.warps.size(); i++) {
      const size_t w = (first + i) % b.warps.size();
      for (size_t t = w * WARP; t < (w + 1) * WARP && t < b.fibres.size(); t++) {
        fibre &f = b.fibres[t];
        if (f.ended || (f.ready && !f.ready(f.ready_state)))
          continue;
        resume(b, f);
        progress = true;
      }
      if (b.draw() % 4 == 0)
        progress |= b.transfer_one();
    }
    b.turn++;
    if (!progress && !b.transfer_one() && !b.stalled)
      stuck(b);
  }
  while (b.transfer_one()) {
  }
  for (int i = 0; i < GUARD; i++)
    if ((unsigned char)own.shared[SHARED_OFFSET + c.shared + i] != 0xa5)
      fault("a kernel wrote %d bytes behind its shared memory", i);
  check::block_end();
  running = NULL;
  return b.done;
}

} // namespace

[[noreturn]] void fault(const char *format, ...) {
  va_list ap;
  va_start(ap, format);
  fprintf(stderr, "emulated GPU: ");
  vfprintf(stderr, format, ap);
  fprintf(stderr, "\n");
  va_end(ap);
  abort();
}

uint64_t block::draw() { // xorshift64
  random ^= random << 13;
  random ^= random >> 7;
  random ^= random << 17;
  return random >> 16;
}

void launch(const config &c, const std::function<void()> &body) {
  static uint64_t blocks_so_far;
  const int64_t n = (int64_t)c.grid.x * c.grid.y * c.grid.z;
  const uint64_t from = __atomic_fetch_add(&blocks_so_far, (uint64_t)n, __ATOMIC_RELAXED);
  if (c.block.y * c.block.z != 1 || c.block.x > THREADS_MAX || c.block.x == 0 || n == 0)
    fault("a launch of %lld blocks of %u x %u x %u threads", (long long)n, c.block.x, c.block.y,
          c.block.z);
  if (c.shared > SHARED_MAX)
    fault("a launch with %zu bytes of shared memory", c.shared);
  check::launched();
  uint64_t product_flop = 0, copied_bytes = 0, reduced_bytes = 0;
#pragma omp parallel for schedule(dynamic, 1) reduction(+ : product_flop, copied_bytes, reduced_bytes)
  for (int64_t i = 0; i < n; i++) {
    const uint3 at = {(unsigned)(i % c.grid.x), (unsigned)(i / c.grid.x % c.grid.y),
                      (unsigned)(i / c.grid.x / c.grid.y)};
    const work w = run_block(c, at, body, from + (uint64_t)i);
    product_flop += w.product_flop;
    copied_bytes += w.copied_bytes;
    reduced_bytes += w.reduced_bytes;
  }
  if (getenv("LONGCA_EMU_COUNT"))
    fprintf(stderr,
            "emulated GPU: %lld blocks of %u threads: %.3f GFLOP of matrix products, %.3f MiB copied "
            "to shared memory, %.3f MiB reduced\n",
            (long long)n, c.block.x, (double)product_flop * 1e-9, (double)copied_bytes / 1048576,
            (double)reduced_bytes / 1048576);
}

const place &here() { return running->self->at; }

void *dynamic_shared() { return own.shared + SHARED_OFFSET; }

uint32_t shared_address(const void *p) {
  const ptrdiff_t offset = (const char *)p - own.shared;
  if (offset < 0 || offset > (ptrdiff_t)(SHARED_OFFSET + own.shared_bytes))
    fault("an address outside shared memory (offset %td of %zu)", offset, own.shared_bytes);
  return (uint32_t)offset;
}

void *shared_pointer(uint32_t address) {
  if (address >= SHARED_OFFSET + own.shared_bytes)
    fault("shared memory read or written at %u of %zu", address, own.shared_bytes);
  return own.shared + address;
}

void wait_until(bool (*test)(void *), void *state, const char *what, uint64_t detail) {
  fibre *f = running->self;
  f->ready = test;
  f->ready_state = state;
  f->what = what;
  f->detail = detail;
  to_scheduler();
}

// Now and then, once in `times`, this thread is slow, and its warp with it.
static void stall(unsigned times) {
  if (running->draw() % times)
    return;
  const int until = running->turn + (1 << running->draw() % 8);
  running->stalled++;
  wait_for([=] { return running->turn >= until; }, "its turn", 0);
  running->stalled--;
}

void meet(unsigned mask, const char *what, void *argument,
          void (*act)(void **arguments, unsigned mask)) {
  stall(AT_MEETING);
  fibre *f = running->self;
  warp &w = running->warp_of(f);
  const unsigned bit = 1u << f->at.thread.x % WARP, first = f->at.thread.x / WARP * WARP;
  const size_t lanes = std::min<size_t>(WARP, running->fibres.size() - first);
  if (lanes < WARP)
    mask &= (1u << lanes) - 1;
  if (!(mask & bit))
    fault("thread %u is not in the mask %#x of its own %s", f->at.thread.x, mask, what);
  if (w.arrived && w.what != what)
    fault("lanes of a warp disagree: %s and %s", w.what, what);
  w.what = what;
  w.arrived |= bit;
  w.arguments[f->at.thread.x % WARP] = argument;
  if (w.arrived != mask) {
    const unsigned meeting = w.meeting;
    wait_for([&] { return w.meeting != meeting; }, what, first / WARP);
    return;
  }
  act(w.arguments, mask);
  w.arrived = 0;
  w.meeting++;
}

namespace {
struct shuffle {
  uint32_t value, result;
  int lane; // read from; outside the warp: one's own
};
} // namespace

uint32_t exchange(unsigned mask, uint32_t value, int lane) {
  shuffle mine = {value, value, lane};
  meet(mask, "a shuffle of warp", &mine, [](void **lanes, unsigned in) {
    for (int i = 0; i < WARP; i++)
      if (in >> i & 1) {
        shuffle *s = static_cast<shuffle *>(lanes[i]);
        if (!(in >> s->lane & 1))
          fault("a shuffle reads lane %d, which is not in the mask %#x", s->lane, in);
        s->result = static_cast<shuffle *>(lanes[s->lane])->value;
      }
  });
  return mine.result;
}

unsigned ballot(unsigned mask, bool predicate) {
  uint32_t mine = predicate;
  meet(mask, "a vote of warp", &mine, [](void **lanes, unsigned in) {
    unsigned all = 0;
    for (int i = 0; i < WARP; i++)
      if (in >> i & 1)
        all |= *static_cast<uint32_t *>(lanes[i]) << i;
    for (int i = 0; i < WARP; i++)
      if (in >> i & 1)
        *static_cast<uint32_t *>(lanes[i]) = all;
    check::sync_lanes(in, true);
  });
  return mine;
}

void sync_warp(unsigned mask) {
  meet(mask, "__syncwarp of warp", NULL, [](void **, unsigned in) { check::sync_lanes(in, false); });
}

// ---- barriers

bool barrier(int id, int threads, bool wait, bool mine) {
  if (id < 0 || id >= 16 || threads % WARP || threads <= 0)
    fault("barrier %d of %d threads", id, threads);
  stall(AT_BARRIER);
  named_barrier &b = running->barriers[id];
  if (b.arrived && b.threads != threads)
    fault("barrier %d is waited for by %d and by %d threads", id, b.threads, threads);
  b.threads = threads;
  b.any |= mine;
  const int round = b.round;
  check::arrive(&b);
  if (++b.arrived == threads) {
    b.last_any = b.any;
    b.any = false;
    b.arrived = 0;
    b.round++;
    check::complete(&b);
  } else if (wait) {
    wait_for([&] { return b.round != round; }, "barrier", (uint64_t)id);
  }
  if (wait)
    check::leave(&b);
  return b.last_any;
}

void meet_block() {
  stall(AT_BARRIER);
  const int threads = ((int)running->fibres.size() + WARP - 1) / WARP * WARP;
  named_barrier &b = running->barriers[0];
  const int round = b.round, last = (int)running->fibres.size();
  b.threads = threads;
  check::arrive(&b);
  if (++b.arrived == last) {
    b.arrived = 0;
    b.round++;
    check::complete(&b);
  } else {
    wait_for([&] { return b.round != round; }, "__syncthreads", 0);
  }
  check::leave(&b);
}

// A barrier in memory: bit 63 the phase; arrivals expected, arrivals missing, and bytes missing.
struct mbarrier {
  uint64_t bytes : 23, missing : 20, expected : 20, phase : 1;
};
static_assert(sizeof(mbarrier) == 8, "an mbarrier is one word");

static void complete(mbarrier *m) {
  if (m->missing || m->bytes)
    return;
  m->phase ^= 1;
  m->missing = m->expected;
  check::complete(m);
}

void mbarrier_init(uint64_t *bar, uint32_t arrivals) {
  shared_address(bar);
  check::mbarrier_init(bar, EMU_CALLER);
  *(mbarrier *)bar = {0, arrivals, arrivals, 0};
}

void mbarrier_arrive(uint64_t *bar, uint32_t expect_bytes) {
  mbarrier *m = (mbarrier *)bar;
  check::mbarrier_used(bar, false, EMU_CALLER);
  check::arrive(bar);
  if (!m->missing)
    fault("one arrival too many at the barrier at %u", shared_address(bar));
  m->bytes += expect_bytes;
  m->missing--;
  complete(m);
  stall(AT_BARRIER);
}

void mbarrier_deliver(uint64_t *bar, uint32_t bytes) {
  mbarrier *m = (mbarrier *)bar;
  m->bytes -= bytes; // may come before they are announced: modulo 2^23
  complete(m);
}

bool mbarrier_done(const uint64_t *bar, uint32_t parity) {
  return ((const mbarrier *)bar)->phase != parity;
}

void mbarrier_wait(uint64_t *bar, uint32_t parity) {
  check::mbarrier_used(bar, false, EMU_CALLER);
  if (!mbarrier_done(bar, parity))
    wait_for([=] { return mbarrier_done(bar, parity); }, "the mbarrier at", shared_address(bar));
  check::leave(bar);
  stall(AT_BARRIER);
}

void mbarrier_init_fence() { check::mbarrier_fence(); }
void fence_async() { check::fence_proxy(); }

void wait_for_word(const int32_t *word, int32_t value) {
  const time_t limit = time(NULL) + 100;
  running->stalled++; // the other block runs, or has run, on another thread of the host
  wait_for(
      [=] {
        const int32_t now = __atomic_load_n(word, __ATOMIC_ACQUIRE);
        if (now != value && time(NULL) > limit)
          fault("a word of global memory is %d and does not become %d", now, value);
        if (now != value)
          sched_yield();
        return now == value;
      },
      "a word of global memory to be", (uint64_t)value);
  running->stalled--;
}

// setmaxnreg: a block's own registers; taking waits until enough were given.
void registers(int count) {
  fibre *f = running->self;
  meet(~0u, "setmaxnreg of warp", NULL, [](void **, unsigned) {});
  if (count > f->registers)
    wait_for([=] { return running->registers_free >= count - f->registers; }, "registers", (uint64_t)count);
  running->registers_free += f->registers - count;
  f->registers = count;
}

} // namespace emu
