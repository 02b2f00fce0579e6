// async.cpp -- what an emulated GPU does beside its threads: copies, reductions and products (PTX ISA 8.0,
// sections 9.7.8.22 to 9.7.8.25 and 9.7.14).
//
// Each happens at once or late, by a coin: copies of the copy engine whenever the scheduler likes, the others
// when their threads wait for them. Until then destinations hold NaN. A bulk reduction is read when its thread waits
// for that, and added when it waits for the sums.
#include <string.h>

#include <array>
#include <memory>

#include "block.h"
#include "check.h"
#include "tensor_map.h"

namespace emu {

void mbarrier_deliver(uint64_t *bar, uint32_t bytes); // block.cpp

bool block::transfer_one() {
  if (transfers.empty())
    return false;
  std::swap(transfers.front(), transfers[draw() % transfers.size()]);
  const std::function<void()> act = transfers.front();
  transfers.pop_front();
  act();
  return true;
}

void queue::finish(int groups_left) {
  size_t done = 0;
  for (; done < ops.size() && ops[done].group < group - groups_left; done++)
    ops[done].act();
  ops.erase(ops.begin(), ops.begin() + (ptrdiff_t)done);
}

void queue::read(int groups_left) {
  for (op &o : ops)
    if (o.group < group - groups_left && !o.was_read) {
      (o.read ? o.read : o.act)();
      if (!o.read)
        o.act = [] {};
      o.was_read = true;
    }
}

static void in_order(queue &q, std::function<void()> act, std::function<void()> read = nullptr) {
  if (q.ops.empty() && !running->late())
    act();
  else
    q.ops.push_back({std::move(act), q.group, std::move(read)});
}

static void transfer(std::function<void()> act) {
  if (running->late())
    running->transfers.push_back(std::move(act));
  else
    act();
}

static void aligned(uint64_t address, unsigned to, const char *what) {
  if (address % to)
    fault("%s at %#llx, not a multiple of %u", what, (unsigned long long)address, to);
}

// ---- the copy engine

// Byte i of a tile at 128-byte-swizzled shared memory: bits 4 to 6 of its address change by bits 7 to 9.
static uint32_t swizzled(uint32_t address) { return address ^ (address >> 7 & 7) << 4; }

// A tile's box at these coordinates: act(16 bytes of shared memory; of the tensor, or NULL outside of it).
template<class Act> static void each_chunk(const tensor_map &m, const std::array<int, 4> &at, uint32_t shared, Act act) {
  uint32_t offset = 0, x[4];
  for (x[3] = 0; x[3] < m.box[3]; x[3]++)
    for (x[2] = 0; x[2] < m.box[2]; x[2]++)
      for (x[1] = 0; x[1] < m.box[1]; x[1]++)
        for (x[0] = 0; x[0] < m.box[0]; x[0] += 16 / m.element_bytes, offset += 16) {
          uint64_t from = (uint64_t)m.base;
          bool inside = true;
          for (int d = 0; d < 4; d++) {
            const uint64_t i = (uint64_t)(at[d] + (int)x[d]);
            inside &= i < m.dim[d]; // negative ones are large
            from += i * (d ? m.stride[d - 1] : m.element_bytes);
          }
          act(shared_pointer(m.swizzled ? swizzled(shared + offset) : shared + offset),
              inside ? (void *)from : NULL);
        }
}

// Of a tile: its bytes, what must hold of it, and its tensor, of which what is outside is not accessed.
static uint32_t tile_bytes(const tensor_map &m, uint32_t shared, uint32_t rank) {
  uint32_t bytes = m.element_bytes;
  for (int i = 0; i < 4; i++)
    bytes *= m.box[i];
  if (rank != m.rank)
    fault("a tensor map of %u dimensions, and a copy by %u coordinates", m.rank, rank);
  aligned(shared, m.swizzled ? 1024 : 128, "a tile");
  if (m.swizzled && m.box[0] * m.element_bytes != 128)
    fault("a swizzled tile's rows are 128 bytes, not %u", m.box[0] * m.element_bytes);
  shared_pointer(shared + bytes - 1);
  return bytes;
}
static uint64_t extent(const tensor_map &m) {
  uint64_t bytes = m.dim[0] * m.element_bytes;
  for (int i = 1; i < 4; i++)
    bytes += (m.dim[i] - 1) * m.stride[i - 1];
  return bytes;
}

void copy_tile(void *dst, const CUtensorMap *map, const int (&at)[4], uint32_t rank, uint64_t *bar) {
  const tensor_map m = *reinterpret_cast<const tensor_map *>(map);
  const uint32_t to = shared_address(dst), bytes = tile_bytes(m, to, rank);
  const std::array<int, 4> where = {at[0], at[1], at[2], at[3]};
  check::mbarrier_used(bar, true, EMU_CALLER);
  check::touch_by_engine(bar, dst, bytes, check::WRITE, EMU_CALLER);
  check::touch_by_engine(bar, m.base, extent(m), check::READ, EMU_CALLER);
  memset(dst, 0xff, bytes);
  running->done.copied_bytes += bytes;
  transfer([=] {
    each_chunk(m, where, to, [](void *shared, const void *tensor) {
      if (tensor)
        memcpy(shared, tensor, 16);
      else
        memset(shared, 0, 16);
    });
    mbarrier_deliver(bar, bytes);
  });
}

void store_tile(const CUtensorMap *map, const void *src, const int (&at)[4]) {
  const tensor_map m = *reinterpret_cast<const tensor_map *>(map);
  const uint32_t from = shared_address(src), bytes = tile_bytes(m, from, 4);
  const std::array<int, 4> where = {at[0], at[1], at[2], at[3]};
  const int group = running->self->bulk.group;
  check::touch(check::BULK_READ, group, src, bytes, check::READ, EMU_CALLER);
  check::touch(check::BULK, group, m.base, extent(m), check::WRITE, EMU_CALLER);
  in_order(running->self->bulk, [=] {
    each_chunk(m, where, from, [](const void *shared, void *tensor) {
      if (tensor)
        memcpy(tensor, shared, 16);
    });
  });
}

void add_f32(float *dst, const float *src, uint32_t bytes) {
  aligned(shared_address(src) | (uintptr_t)dst | bytes, 16, "a bulk reduction");
  running->done.reduced_bytes += bytes;
  const int group = running->self->bulk.group;
  check::touch(check::BULK_READ, group, src, bytes, check::READ, EMU_CALLER);
  check::touch(check::BULK, group, dst, bytes, check::ATOMIC, EMU_CALLER);
  // Once read, the source may change while the sums are still under way.
  const auto values = std::make_shared<std::vector<float>>();
  const auto read = [=] { values->assign(src, src + bytes / 4); };
  const auto act = [=] {
    if (values->empty())
      read();
    for (uint32_t i = 0; i < bytes / 4; i++)
      add_global(dst + i, (*values)[i]);
  };
  in_order(running->self->bulk, act, read);
}
void bulk_commit() { running->self->bulk.group++; }
void bulk_wait(int groups, bool read_only) {
  queue &bulk = running->self->bulk;
  if (read_only)
    bulk.read(groups);
  else
    bulk.finish(groups);
  check::groups_done(check::BULK_READ, bulk.group - groups);
  if (!read_only)
    check::groups_done(check::BULK, bulk.group - groups);
}

// ---- cp.async

void copy_async(uint32_t shared, const void *src, int bytes, bool there) {
  aligned(shared | (there ? (uintptr_t)src : 0), (unsigned)bytes, "cp.async");
  void *dst = shared_pointer(shared);
  const int group = running->self->copies.group;
  check::touch(check::COPIES, group, dst, (size_t)bytes, check::WRITE, EMU_CALLER);
  if (there)
    check::touch(check::COPIES, group, src, (size_t)bytes, check::READ, EMU_CALLER);
  memset(dst, 0xff, (size_t)bytes);
  running->done.copied_bytes += there ? (uint64_t)bytes : 0;
  in_order(running->self->copies, [=] {
    if (there)
      memcpy(dst, src, (size_t)bytes);
    else
      memset(dst, 0, (size_t)bytes);
  });
}
void copy_async_commit() { running->self->copies.group++; }
void copy_async_wait(int groups) {
  queue &copies = running->self->copies;
  copies.finish(groups);
  check::groups_done(check::COPIES, copies.group - groups);
}

// ---- wgmma: a warp has 16 of the 64 rows and goes at its own pace

struct product {
  float *d[WARP];           // [n / 2] each
  const uint32_t *a[WARP];  // registers, or NULL
  uint64_t a_desc, b_desc;
  int n, warp_row;
  bool b_transposed, keep;
  bool first;               // of those under way that add to this accumulator
  std::vector<float> before; // what the accumulator held, if first and kept
};

static float bf16(uint16_t bits) {
  const uint32_t x = (uint32_t)bits << 16;
  float y;
  memcpy(&y, &x, 4);
  return y;
}

// Of an element of an operand whose rows (of 128 bytes, atoms of 8) run along its columns.
uint32_t operand_address(uint64_t desc, int row, int column) {
  const uint32_t begin = (uint32_t)(desc & 0x3fff) << 4, atom = (uint32_t)(desc >> 32 & 0x3fff) << 4,
                 lead = (uint32_t)(desc >> 16 & 0x3fff) << 4;
  const uint32_t at = begin + (uint32_t)(column / 64) * lead + (uint32_t)(row / 8) * atom +
                      (uint32_t)(row % 8) * 128 + (uint32_t)(column % 64) * 2;
  return swizzled(at);
}

static float element(uint64_t desc, int row, int column) {
  uint16_t bits;
  memcpy(&bits, shared_pointer(operand_address(desc, row, column)), 2);
  return bf16(bits);
}

static void multiply(const product &p) {
  float a[16][16], b[16][128];
  for (int r = 0; r < 16; r++)
    for (int k = 0; k < 16; k++)
      if (p.a[0]) { // registers: (row g, k 2t) (g + 8, 2t) (g, 2t + 8) (g + 8, 2t + 8)
        const uint32_t pair = p.a[r % 8 * 4 + k % 8 / 2][r / 8 + k / 8 * 2];
        a[r][k] = bf16((uint16_t)(pair >> 16 * (k % 2)));
      } else {
        a[r][k] = element(p.a_desc, p.warp_row + r, k);
      }
  for (int k = 0; k < 16; k++)
    for (int n = 0; n < p.n; n++)
      b[k][n] = p.b_transposed ? element(p.b_desc, k, n) : element(p.b_desc, n, k);
  for (int r = 0; r < 16; r++) {
    float sum[128] = {};
    for (int k = 0; k < 16; k++)
      for (int n = 0; n < p.n; n++)
        sum[n] += a[r][k] * b[k][n];
    for (int n = 0; n < p.n; n++) {
      const int lane = r % 8 * 4 + n % 8 / 2, i = n / 8 * 4 + r / 8 * 2 + n % 2;
      const float before = !p.keep ? 0 : p.first ? p.before[(size_t)(lane * p.n / 2 + i)] : p.d[lane][i];
      p.d[lane][i] = before + sum[n];
    }
  }
}

static void finish_products(warp &w, int upto) {
  while (!w.products.empty() && w.products_done < upto) {
    product *p = w.products.front();
    w.products.pop_front();
    multiply(*p);
    delete p;
    w.products_done++;
  }
}

void wgmma(float *d, int n, const uint32_t *a, uint64_t a_desc, uint64_t b_desc, bool b_transposed,
           bool keep) {
  struct part {
    float *d;
    const uint32_t *a;
    int n;
    uint64_t a_desc, b_desc;
    bool b_transposed, keep;
    const void *pc;
  } mine = {d, a, n, a_desc, b_desc, b_transposed, keep, EMU_CALLER};
  check::product(d, n, a, (int)running->warp_of(running->self).group_end.size(), mine.pc);
  meet(~0u, "a product of warp", &mine, [](void **lanes, unsigned) {
    block &b = *running;
    warp &w = b.warp_of(b.self);
    const part &one = *static_cast<part *>(lanes[0]);
    product *p = new product;
    p->n = one.n;
    p->a_desc = one.a_desc;
    p->b_desc = one.b_desc;
    p->b_transposed = one.b_transposed;
    p->keep = one.keep;
    p->warp_row = (int)(b.self->at.thread.x / WARP % 4) * 16;
    p->first = true;
    for (const product *q : w.products)
      p->first &= q->d[0] != one.d;
    for (int i = 0; i < WARP; i++) {
      const part &x = *static_cast<part *>(lanes[i]);
      if (x.a_desc != one.a_desc || x.b_desc != one.b_desc || x.keep != one.keep || x.n != one.n)
        fault("lanes of a warp disagree about a product");
      p->d[i] = x.d;
      p->a[i] = x.a;
      if (p->first) {
        p->before.insert(p->before.end(), x.d, x.d + x.n / 2);
        memset(x.d, 0xff, sizeof(float) * (size_t)x.n / 2);
      }
    }
    const int group = (int)w.group_end.size();
    if (!p->a[0])
      check::operand(p->a_desc, p->warp_row, 16, 16, group, one.pc);
    check::operand(p->b_desc, 0, p->b_transposed ? 16 : p->n, p->b_transposed ? p->n : 16, group, one.pc);
    check::same_in_warpgroup(p->a_desc, p->b_desc, p->n, p->b_transposed, p->keep, one.pc);
    w.products.push_back(p);
    w.products_begun++;
    b.done.product_flop += 2ull * 16 * 16 * (uint64_t)p->n;
    if (w.products.size() == 1 && !b.late())
      finish_products(w, w.products_begun);
  });
}

void wgmma_fence() { check::registers_fence(); }

static void no_argument(const char *what, void (*act)(void **, unsigned)) { meet(~0u, what, NULL, act); }

void wgmma_commit() {
  no_argument("a commit of warp", [](void **, unsigned) {
    warp &w = running->warp_of(running->self);
    w.group_end.push_back(w.products_begun);
  });
}

void wgmma_wait(int groups) {
  int left = groups;
  meet(~0u, "a wait of warp", &left, [](void **lanes, unsigned) {
    warp &w = running->warp_of(running->self);
    const int left = *static_cast<int *>(lanes[0]), done = (int)w.group_end.size() - left;
    if (done > 0)
      finish_products(w, w.group_end[(size_t)done - 1]);
  });
  const int done = (int)running->warp_of(running->self).group_end.size() - groups;
  check::groups_done(check::PRODUCTS, done);
  check::products_wait(done);
}

} // namespace emu
