// check_order.cpp -- the order of accesses to a block's shared memory: two by different agents, one
// of them a write, must be ordered by what the PTX ISA says orders them (8.0, sections 8 and
// 9.7.12), or are a race.
//
// Vector clocks, as in FastTrack (Flanagan, Freund 2009). Each thread of the block, and each agent
// beside threads, counts epochs: a thread's end where it releases what it did (arrives at a
// barrier, fences); an agent's are its groups, or the phases of its mbarrier. A thread's clock
// holds for each the last epoch whose accesses are ordered before what the thread does next:
//   KNOWN   by barriers, mbarriers, __syncwarp, waits for groups; not by shuffles or products
//   FENCED  and a fence.proxy.async by some thread on the way: ordinary stores (the generic proxy)
//           must be so before wgmma or a bulk copy (the asynchronous proxy) reads or overwrites
//   VOTED   what lanes had read at a vote of their warp: it waits for the values that it is
//           about, so it orders reads before later writes, and nothing else
// The other way round a completion is a fence by itself; and what threads have read may be
// overwritten by a copy without one, since a value that was read cannot change.
//
// Shared memory remembers the last write and the reads since, by 16 bytes; by 2 where parts were
// accessed.
#ifdef EMU_CHECK
#include <algorithm>
#include <memory>
#include <unordered_map>

#include "block.h"
#include "check.h"

namespace emu {
namespace check {
namespace {

enum { LINE = 16, GRAIN = 2, PARTS = LINE / GRAIN, NOBODY = 0xffff };
enum order { KNOWN, FENCED, VOTED, ORDERS };

struct clocks {
  std::vector<uint32_t> of[ORDERS]; // by slot; what is not there is 0

  uint32_t &at(order o, size_t slot) {
    if (of[o].size() <= slot)
      of[o].resize(slot + 1);
    return of[o][slot];
  }
  bool after(const entry &e, order o) const {
    return e.slot == NOBODY || (e.slot < of[o].size() && of[o][e.slot] >= e.epoch);
  }
  void join(const clocks &x) {
    for (int o = 0; o < ORDERS; o++) {
      if (of[o].size() < x.of[o].size())
        of[o].resize(x.of[o].size());
      uint32_t *to = of[o].data();
      const uint32_t *from = x.of[o].data();
      for (size_t i = 0; i < x.of[o].size(); i++)
        to[i] = std::max(to[i], from[i]);
    }
  }
  void learn(size_t slot, uint32_t epoch) { at(KNOWN, slot) = std::max(at(KNOWN, slot), epoch); }
};

struct object { // a barrier
  clocks arriving, done;
  bool initialised, fenced; // an mbarrier: seen by the copy engine
  entry init;
  uint32_t phases;
};

struct mark {
  entry write = {0, NOBODY, 0, 0, 0};
  std::vector<entry> reads;
};
struct line {
  mark whole;
  bool split = false;
  std::unique_ptr<mark[]> part;
};

struct state {
  std::vector<clocks> thread;
  std::unordered_map<uint64_t, uint16_t> slots; // agent << 32 | its number
  std::unordered_map<const void *, object> objects;
  std::vector<line> lines;
};
thread_local state now;

size_t self() { return running->self->at.thread.x; }
clocks &mine() { return now.thread[self()]; }
void next_epoch() { mine().at(KNOWN, self())++; }

// Threads have the first slots. An agent's number: its thread, warp, or barrier's address.
uint16_t slot_of(agent a, const void *bar) {
  if (a == THREAD)
    return (uint16_t)self();
  const uint64_t number = bar ? shared_address(bar) : a == PRODUCTS ? self() / WARP : self();
  return now.slots.emplace((uint64_t)a << 32 | number, now.thread.size() + now.slots.size())
      .first->second;
}

struct doing {
  entry e;
  access how;
  size_t offset, bytes;
};

void judge(mark &m, const doing &d) {
  const bool both_atomic = d.how == ATOMIC && m.write.atomic;
  const order needed = d.e.async && !m.write.async ? FENCED : KNOWN;
  if (!both_atomic && !mine().after(m.write, needed))
    report(needed == FENCED && mine().after(m.write, KNOWN)
               ? "no fence.proxy.async between an ordinary store and the asynchronous proxy"
               : "a race",
           shared_place((ptrdiff_t)d.offset), d.bytes, d.how, d.e, &m.write);
  if (d.how == READ) {
    auto &r = m.reads; // those that this one comes after need not be remembered
    r.erase(
        std::remove_if(r.begin(), r.end(), [&](const entry &x) { return mine().after(x, KNOWN); }),
        r.end());
    if (r.empty() || r.back().slot != d.e.slot || r.back().epoch != d.e.epoch)
      r.push_back(d.e);
    return;
  }
  for (const entry &r : m.reads)
    if (!mine().after(r, KNOWN) && !mine().after(r, VOTED))
      report("a race", shared_place((ptrdiff_t)d.offset), d.bytes, d.how, d.e, &r);
  m.reads.clear();
  m.write = d.e;
}

} // namespace

void order_begin(size_t shared_bytes) {
  now.thread.resize(running->fibres.size());
  for (size_t t = 0; t < now.thread.size(); t++) {
    now.thread[t] = {};
    now.thread[t].at(KNOWN, t) = 1;
  }
  now.slots.clear();
  now.objects.clear();
  now.lines.resize(std::max(now.lines.size(), (shared_bytes + LINE - 1) / LINE));
  for (line &l : now.lines) {
    l.whole.write = {0, NOBODY, 0, 0, 0};
    l.whole.reads.clear();
    l.split = false;
  }
}

void track(agent by, int group, const uint64_t *bar, size_t offset, size_t bytes, access how,
           const void *pc) {
  doing d = {{(uint64_t)pc, slot_of(by, bar), 0, by >= BULK_READ, how == ATOMIC}, how, 0, bytes};
  d.e.epoch = by == THREAD ? mine().at(KNOWN, self())
              : bar        ? now.objects[bar].phases + 1
                           : (uint32_t)group + 1;
  for (size_t at = offset, end = offset + bytes; at < end;) {
    line &l = now.lines[at / LINE];
    const size_t first = at % LINE / GRAIN,
                 last = std::min<size_t>(end - at / LINE * LINE - 1, LINE - 1) / GRAIN;
    const bool all = first == 0 && last == PARTS - 1;
    d.offset = at;
    if (!all && !l.split) {
      if (!l.part)
        l.part.reset(new mark[PARTS]);
      std::fill(l.part.get(), l.part.get() + PARTS, l.whole);
      l.split = true;
    }
    if (!l.split)
      judge(l.whole, d);
    else
      for (size_t i = first; i <= last; i++)
        judge(l.part[i], d);
    if (all && l.split && how != READ) {
      l.whole = l.part[0];
      l.split = false;
    }
    at = (at / LINE + 1) * LINE;
  }
}

std::string name_of(const entry &e) {
  static const char *const names[AGENTS] = {"thread ",
                                            "cp.async of thread ",
                                            "a bulk reduction of thread ",
                                            "a bulk reduction of thread ",
                                            "a product of warp ",
                                            "the copy engine, for the mbarrier at "};
  if (e.slot < now.thread.size())
    return names[THREAD] + std::to_string(e.slot);
  for (const auto &[key, slot] : now.slots)
    if (slot == e.slot)
      return names[key >> 32] + std::to_string((uint32_t)key);
  return "somebody";
}

void arrive(const void *o) {
  now.objects[o].arriving.join(mine());
  next_epoch();
}

void complete(const void *o) { // an mbarrier's phases add up: each arrival reads the one before
  object &x = now.objects[o];
  x.phases++;
  if (x.initialised)
    x.arriving.learn(slot_of(ENGINE, o), x.phases);
  x.done = x.arriving;
  if (!x.initialised)
    x.arriving = {};
}

void leave(const void *o) { mine().join(now.objects[o].done); }

void sync_lanes(unsigned mask, bool vote) {
  const size_t first = self() / WARP * WARP;
  clocks all;
  for (size_t i = first; i < first + WARP; i++)
    if (mask >> (i - first) & 1)
      all.join(now.thread[i]);
  if (vote)
    all.of[VOTED] = all.of[KNOWN]; // of more votes before, what matters has been passed on since
  for (size_t i = first; i < first + WARP; i++)
    if (mask >> (i - first) & 1) {
      clocks &c = now.thread[i];
      const uint32_t own = c.at(KNOWN, i);
      if (vote)
        c.of[VOTED] = all.of[VOTED];
      else
        c = all;
      c.at(KNOWN, i) = own + 1;
    }
}

void groups_done(agent of, int groups) {
  mine().learn(slot_of(of, NULL), (uint32_t)std::max(groups, 0));
}

void fence_proxy() {
  clocks &c = mine();
  c.of[FENCED] = c.of[KNOWN];
  next_epoch();
}

void mbarrier_init(const uint64_t *bar, const void *pc) {
  object &o = now.objects[bar];
  const entry e = {(uint64_t)pc, (uint16_t)self(), mine().at(KNOWN, self()), 0, 0};
  if (o.initialised)
    say((uint64_t)pc, &o.init,
        "an mbarrier is initialised twice: by thread " + std::to_string(self()));
  o = {};
  o.initialised = true;
  o.init = e;
}

void mbarrier_fence() {
  for (auto &[bar, o] : now.objects)
    o.fenced |= o.initialised && o.init.slot == self();
}

void mbarrier_used(const uint64_t *bar, bool by_engine, const void *pc) {
  object &o = now.objects[bar];
  const std::string by = ": by thread " + std::to_string(self());
  if (!o.initialised)
    say((uint64_t)pc, NULL, "an mbarrier is used that nobody initialised" + by);
  else if (!mine().after(o.init, KNOWN))
    say((uint64_t)pc, &o.init,
        "an mbarrier is used whose initialisation nothing orders before" + by);
  else if (by_engine && !o.fenced && !mine().after(o.init, FENCED))
    say((uint64_t)pc, &o.init,
        "no fence between an mbarrier's initialisation and the copy engine" + by);
  o.initialised = true; // one report is enough
}

} // namespace check
} // namespace emu
#endif
