// balance.h -- what each CTA of the wgmma engine's backward does, so that all end together.
//
// A CTA takes an item, 128 keys, and loops over some of its group's query heads. Works (item, loop) start in
// the order of the grid: sections of loops side by side, in each the longest items first, so a section's long items
// start late where it is the last. How many heads a loop has is chosen by a simulation of the
// multiprocessors, with what each choice costs. And near the end, or where items are few, a work may be several:
// parts of its query tiles, which add their dK and dV in fp32. As in forward (split.h) a part takes at most
// its share of the steps that are left, or a little more. All follows from the lengths of the list alone.
#ifndef LONGCA_WGMMA_BALANCE_H
#define LONGCA_WGMMA_BALANCE_H

#include <stdbool.h>
#include <stdint.h>

#include "../worklist.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { BALANCE_KEYS = 128, BALANCE_QUERIES = 64 }; // of an item, of a tile: a step of one head

struct balance_list {
  const struct worklist_item *items; // [classes, count] on the host, of a class the longest first
  int32_t count, classes;
  int32_t heads_q, heads_kv, dim, rows_k;
  int32_t query_tiles; // of a head
  int32_t sms;
  int64_t l2_bytes;
  bool deterministic; // CTAs take whole items, and follow each other through their tiles
};

struct balance_part {  // what a CTA near the end of the grid does
  int32_t place, head; // its item in its class, the first of its query heads
  int32_t from, tiles; // its query tiles, of those that the item's runs name
  int32_t slot;        // of its work among those in parts; -1: it is all of its work
};

struct balance {
  int32_t loop;    // query heads of a CTA: divides the group
  int32_t section; // loops side by side
  bool together;   // CTAs begin where others are, as Q, dO and dQ of a head are more than L2 keeps
  // The first `before` loops have whole items; what stands behind them in the grid, parts[] says one by one, those
  // without tiles last. No parts: before is all loops.
  int32_t before, count, slots;
  struct balance_part *parts; // [count]
  double steps,
      even; // by the simulation: when the last CTA ends; the share of a multiprocessor in the
            // bare steps
};

int balance_make(struct balance *balance, const struct balance_list *list); // -1: out of memory
void balance_free(struct balance *balance);

#ifdef __cplusplus
}
#endif
#endif
