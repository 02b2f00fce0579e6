// block.h -- the running block of the emulated GPU: its fibres, warps and barriers (block.cpp), and what is
// under way (async.cpp).
#ifndef LONGCA_EMU_BLOCK_H
#define LONGCA_EMU_BLOCK_H

#include <setjmp.h>

#include <deque>
#include <vector>

#include "emu.h"

namespace emu {

// Of a thread, in order: commit closes a group, a wait leaves at most so many groups open.
struct queue {
  struct op {
    std::function<void()> act;
    int group;
    std::function<void()> read; // its source, before it acts; none: it acts then
    bool was_read = false;
  };
  std::vector<op> ops;
  int group = 0;                // being filled
  void finish(int groups_left); // acts until no more than that many groups are under way
  void read(int groups_left);   // until no more than that many read
};

struct product; // of a warp: async.cpp

struct fibre {
  place at;
  bool ended;
  bool (*ready)(void *); // NULL: can go on
  void *ready_state;
  const char *what; // it waits for
  uint64_t detail;
  int registers;
  queue copies, bulk;
};

struct warp {
  unsigned arrived;
  unsigned meeting; // counts
  const char *what;
  void *arguments[WARP];
  std::deque<product *> products; // not done yet, in order
  int products_begun, products_done;
  std::vector<int> group_end; // products before the end of each committed group
};

struct named_barrier {
  int arrived, threads, round;
  bool any, last_any;
};

// What a launch did, for arguments about speed: LONGCA_EMU_COUNT=1 prints it.
struct work {
  uint64_t product_flop, copied_bytes, reduced_bytes;
};

struct block {
  const std::function<void()> *body;
  std::vector<fibre> fibres;
  std::vector<warp> warps;
  named_barrier barriers[16];
  int live, registers_free;
  int turn, stalled; // rounds of the scheduler; fibres that sit some out
  fibre *self;
  jmp_buf scheduler;
  std::deque<std::function<void()>> transfers; // of the copy engine, in any order
  uint64_t random;
  work done;

  uint64_t draw();                   // pseudo-random
  bool late() { return draw() % 2; } // whether what is asynchronous waits
  bool transfer_one();               // false: none is under way
  warp &warp_of(const fibre *f) { return warps[f->at.thread.x / WARP]; }
};

extern thread_local block *running;

} // namespace emu
#endif
