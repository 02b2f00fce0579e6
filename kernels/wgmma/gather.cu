// gather.cu -- makes gather lists on the device (gather.h), in four kernels; the host only allocates.
//
//   cut    a warp a class: query rows into parts, at the ends of segments and block rows
//   count  a thread a list: what its two sides see, merged, in how many stages
//   place  a thread a list: the longest first, tiles and stages behind those of the lists before
//   write  a thread a list: its stages, and the tiles that have them
//
// Packed, a list is of one part of a block row, of any length, and as many tiles as that takes; else of
// two parts of up to 64 rows, which are one tile. The same bytes every time.
#include "gather.h"

#include <string.h>

#include <algorithm>

#include "../gpu.cuh"
#include "../rep/blocklist.h"
#include "../rep/varblock.h"
#include "../rep_device.h"
#include "../work_items.cuh"
#include "forward_shared.cuh"

namespace {

struct part { // query rows of one block row; rows 0: none
  int32_t row, pos, rows; // pos -1: padding, sees nothing
};
// Pieces that are seen alike: ends of stretches, and whole ones. Counts, or numbers of the next.
struct tally {
  int32_t ends, whole;
  __device__ int32_t take(bool is_whole) { return is_whole ? whole++ : ends++; }
  __device__ int32_t all() const { return ends + whole; }
};
struct draft { // of a list
  part of[2];            // packed: the same twice
  tally half[2], both;   // pieces that one half sees alone; and both
  int32_t stages, pairs; // pairs: rounds of a stage for each half; the others are for both
  int32_t tiles;
  int32_t begin, place; // of its stages; of its first tile in the class
};

struct list_shape {
  const attn_segment *queries, *keys; // device: row_ranges; segments
  int32_t query_ranges, key_segments;
  int32_t classes, heads;
  int32_t parts, lists; // of a class: room for so many
};

__device__ int64_t list_row(const blocklist &x, int head, int pos) { return blocklist_row(&x, head, pos); }
__device__ int64_t list_row(const varblock &x, int head, int pos) { return varblock_row(&x, head, pos); }
__device__ block_axis row_axis(const blocklist &x, int) { return blocklist_axis(&x); }
__device__ block_axis row_axis(const varblock &x, int head) { return varblock_rows(&x, head); }
__device__ block_axis key_axis(const blocklist &x, int) { return blocklist_axis(&x); }
__device__ block_axis key_axis(const varblock &x, int head) { return varblock_cols(&x, head); }

// Parts of each class and how many there are: a lane cuts a block row, 32 at a time.
template <class Rep>
__global__ void cut_rows(const Rep rep, const list_shape s, part *parts, int32_t *cut) {
  const int head = blockIdx.x, lane = threadIdx.x;
  const block_axis axis = row_axis(rep, head);
  int32_t done = 0;
  parts += (int64_t)head * s.parts;
  for (int r = 0; r < s.query_ranges; r++) {
    const attn_segment range = s.queries[r];
    const bool padding = range.pos < 0;
    const int32_t last = range.pos + range.len;
    int32_t block = padding ? 0 : block_axis_find(&axis, range.pos);
    for (bool more = true; more; block += 32) {
      const int32_t mine = block + lane;
      int32_t from = 0, rows = padding && lane == 0 ? range.len : 0; // from the range's beginning
      if (!padding && mine < axis.blocks) {
        from = max(block_axis_begin(&axis, mine), range.pos) - range.pos;
        rows = max(min(block_axis_begin(&axis, mine + 1), last) - range.pos - from, 0);
      }
      const int32_t each = s.heads > 1 ? max(rows, 1) : GATHER_ROWS, n = (rows + each - 1) / each;
      int32_t upto = n; // of the lanes up to this one
#pragma unroll
      for (int by = 1; by < 32; by *= 2) {
        const int32_t below = __shfl_up_sync(~0u, upto, by);
        upto += lane >= by ? below : 0;
      }
      for (int32_t i = 0; i < n; i++) {
        const int32_t at = from + i * each;
        parts[done + upto - n + i] = {range.row + at, padding ? -1 : range.pos + at,
                                      min(each, rows - i * each)};
      }
      done += __shfl_sync(~0u, upto, 31);
      more = !padding && block + 32 < axis.blocks && block_axis_begin(&axis, block + 32) < last;
    }
  }
  if (lane == 0)
    cut[head] = done;
}

// Counts the pieces of a list, then places them. Who sees one is a bit a half: 1, 2, or 3 for both. (No array is
// indexed by who: on a GPU that put pieces at wrong places.)
template <int Pieces> struct piece_writer {
  static constexpr int KEYS = GATHER_KEYS / Pieces;
  gather_stage<Pieces> *out = NULL; // all 0, which is pieces that nobody sees; NULL: only count
  tally half0 = {}, half1 = {}, both = {};
  int32_t own = 0;      // of each half's, so many come in its own stages
  int32_t for_both = 0; // stages for both, which come first
  int32_t shared_both = 0, shared0 = 0, shared1 = 0; // the place in these of the piece that has number 0

  __device__ piece_writer() {}
  // Places of the pieces that d counts. In stages for both: nothing, ends, whole ones; then what one half sees more,
  // of which the numbers of whole ones come first, so that ends are what is left.
  __device__ piece_writer(gather_stage<Pieces> *out, const draft &d)
      : out(out), own(d.pairs * Pieces), for_both(d.stages - 2 * d.pairs) {
    both.whole = d.both.ends;
    half0.ends = d.half[0].whole;
    half1.ends = d.half[1].whole;
    shared_both = for_both * Pieces - (d.half[0].all() + d.half[1].all() + d.both.all() - 2 * own);
    shared0 = shared_both + d.both.all() - own;
    shared1 = shared0 + d.half[0].all() - own;
  }

  __device__ void add(int32_t who, int32_t row, int32_t keys) {
    const bool whole = keys == KEYS;
    const int32_t i = who == 3 ? both.take(whole) : who == 1 ? half0.take(whole) : half1.take(whole);
    if (!out)
      return;
    const bool alone = who != 3 && i < own;
    const int32_t at = i + (alone ? 0 : who == 3 ? shared_both : who == 1 ? shared0 : shared1);
    gather_stage<Pieces> &s = out[alone ? for_both + 2 * (at / Pieces) + (who == 2) : at / Pieces];
    s.flags = alone ? wgmma::STEP_ONLY * who : 0;
    s.row[at % Pieces] = row;
    for (int h = 0; h < 2; h++)
      s.valid[h][at % Pieces] = who >> h & 1 ? keys : 0;
  }

  // Pieces that are missing to whole stages are the first one again, of which nothing is seen.
  __device__ void fill() {
    for (int32_t i = 0; i < shared_both && shared_both < Pieces; i++)
      out[0].row[i] = out[0].row[shared_both];
  }
};

// The pieces of a list, in the order of keys within a segment. Neighbouring blocks that the same halves
// see are one stretch, which is cut from its beginning.
template <int Pieces, class Rep>
__device__ void walk_pieces(const Rep &rep, int head, const list_shape &s, const draft &d,
                            piece_writer<Pieces> &w) {
  const block_axis axis = key_axis(rep, head);
  const block_lists &l = rep.q2k;
  int64_t row[2];
  for (int h = 0; h < 2; h++)
    row[h] = d.of[h].rows && d.of[h].pos >= 0 ? list_row(rep, head, d.of[h].pos) : -1;
  const bool one = row[0] == row[1];
  for (int i = 0; i < s.key_segments; i++) {
    const attn_segment seg = s.keys[i];
    const int32_t last = seg.pos + seg.len;
    int64_t at[2], end[2];
    for (int h = 0; h < 2; h++) {
      end[h] = row[h] < 0 ? 0 : l.begin[row[h] + 1];
      at[h] = row[h] < 0 ? 0
                         : block_lists_find(&l, row[h], l.begin[row[h]], block_axis_find(&axis, seg.pos));
    }
    int32_t begin = 0, until = 0, who = 0; // the open stretch
    for (bool more = true; more;) {
      int32_t c[2];
      for (int h = 0; h < 2; h++)
        c[h] = at[h] < end[h] ? l.entry[at[h]] : INT32_MAX;
      const int32_t block = min(c[0], c[1]);
      const int32_t from = block < INT32_MAX ? max(block_axis_begin(&axis, block), seg.pos) : last;
      more = from < last;
      const int32_t sees = one ? 3 : (c[0] == block) | (c[1] == block) << 1;
      if (!more || from != until || sees != who) {
        for (int32_t k = begin; k < until; k += w.KEYS)
          w.add(who, seg.row + k - seg.pos, min(w.KEYS, until - k));
        begin = from;
        who = sees;
      }
      if (more) {
        until = min(block_axis_begin(&axis, block + 1), last);
        at[0] += c[0] == block;
        at[1] += c[1] == block;
      }
    }
  }
}

// A thread's list: the class, the number in it; -1: none.
struct list_index {
  int head, at;
  __device__ list_index(const list_shape &s, const int32_t *cut) {
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    head = (int)(i / s.lists);
    at = (int)(i % s.lists);
    if (head >= s.classes || at >= lists_of(s, cut[head]))
      at = -1;
  }
  static __device__ int32_t lists_of(const list_shape &s, int32_t parts) {
    return s.heads > 1 ? parts : (parts + 1) / 2;
  }
};

// Totals: stages of each class, tiles of each class, rounds of all.
template <int Pieces, class Rep>
__global__ void count_stages(const Rep rep, const list_shape s, const part *parts, const int32_t *cut,
                             draft *drafts, unsigned long long *totals) {
  const list_index i(s, cut);
  if (i.at < 0)
    return;
  draft d = {};
  parts += (int64_t)i.head * s.parts;
  if (s.heads > 1) {
    const int32_t rows = GATHER_ROWS / s.heads * 2;
    d.of[0] = d.of[1] = parts[i.at];
    d.tiles = (d.of[0].rows + rows - 1) / rows;
  } else {
    d.of[0] = parts[2 * i.at];
    if (2 * i.at + 1 < cut[i.head])
      d.of[1] = parts[2 * i.at + 1];
    d.tiles = 1;
  }
  piece_writer<Pieces> w;
  walk_pieces(rep, i.head, s, d, w);
  d.half[0] = w.half0;
  d.half[1] = w.half1;
  d.both = w.both;
  const int32_t all0 = w.half0.all(), all1 = w.half1.all();
  d.pairs = min(all0, all1) / Pieces;
  const int32_t rest = w.both.all() + all0 + all1 - 2 * d.pairs * Pieces;
  const int32_t for_both = d.pairs || rest ? (rest + Pieces - 1) / Pieces : 1; // no keys: a step of nothing
  d.stages = for_both + 2 * d.pairs;
  drafts[(int64_t)i.head * s.lists + i.at] = d;
  atomicAdd(&totals[i.head], (unsigned long long)d.stages);
  atomicAdd(&totals[s.classes + i.head], (unsigned long long)d.tiles);
  atomicAdd(&totals[2 * s.classes], (unsigned long long)(for_both + d.pairs) * d.tiles);
}

__global__ void place_lists(const list_shape s, const int32_t *cut, const unsigned long long *totals,
                            draft *drafts) {
  const list_index i(s, cut);
  if (i.at < 0)
    return;
  draft *peers = drafts + (int64_t)i.head * s.lists; // of which each thread changes begin and place of one
  int32_t begin = 0, place = 0;
  for (int c = 0; c < i.head; c++)
    begin += (int32_t)totals[c];
  each_before(
      i.at, list_index::lists_of(s, cut[i.head]),
      [&](int32_t j) { return peers[j].stages - peers[j].pairs; },
      [&](int32_t j) {
        begin += peers[j].stages;
        place += peers[j].tiles;
      });
  peers[i.at].begin = begin;
  peers[i.at].place = place;
}

template <int Pieces, class Rep>
__global__ void write_lists(const Rep rep, const list_shape s, const int32_t *cut, const draft *drafts,
                            gather_stage<Pieces> *stages, gather_tile *tiles, int32_t count) {
  const list_index i(s, cut);
  if (i.at < 0)
    return;
  const draft d = drafts[(int64_t)i.head * s.lists + i.at];
  piece_writer<Pieces> w(stages + d.begin, d);
  walk_pieces(rep, i.head, s, d, w);
  w.fill();
  tiles += (int64_t)i.head * count + d.place;
  for (int32_t t = 0; t < d.tiles; t++) {
    gather_tile tile = {{}, {}, d.begin, d.begin + d.stages, d.pairs};
    for (int h = 0; h < 2; h++) {
      const int32_t rows = GATHER_ROWS / s.heads, first = s.heads > 1 ? (2 * t + h) * rows : 0;
      tile.row[h] = d.of[h].row + first;
      tile.rows[h] = min(max(d.of[h].rows - first, 0), rows);
    }
    tiles[t] = tile;
  }
}

struct builder {
  gpu_memory memory; // while building
  list_shape shape;
  part *parts;
  int32_t *cut; // [classes] parts of each
  draft *drafts;
  unsigned long long *totals;

  int allocate(const attn_problem *p) {
    const attn_segment whole = {0, 0, p->rows_k};
    const std::vector<attn_segment> ranges = row_ranges(p->q_seg, p->q_segs, p->rows_q);
    const int32_t group = p->heads_q / p->heads_kv;
    list_shape &s = shape;
    int64_t account = 0; // not kept
    s.classes = std::max(p->mask->heads, 1);
    s.heads = std::min<int32_t>(group & -group, GATHER_ROWS);
    s.query_ranges = (int32_t)ranges.size();
    s.key_segments = p->k_seg ? p->k_segs : 1;
    s.parts = s.heads > 1 ? 0 : p->rows_q / GATHER_ROWS;
    for (const attn_segment &range : ranges)
      s.parts += range.pos < 0 ? 1 : std::min(range.len, p->mask->blocks_q);
    s.lists = s.heads > 1 ? s.parts : (s.parts + 1) / 2;
    const std::vector<unsigned long long> zeros(2 * s.classes + 1);
    return memory.copy((attn_segment **)&s.queries, ranges.data(), s.query_ranges, &account) ||
                   memory.copy((attn_segment **)&s.keys, p->k_seg ? p->k_seg : &whole, s.key_segments,
                               &account) ||
                   memory.copy(&totals, zeros.data(), zeros.size(), &account) ||
                   memory.get(&parts, (int64_t)s.classes * s.parts, &account) ||
                   memory.get(&cut, s.classes, &account) ||
                   memory.get(&drafts, (int64_t)s.classes * s.lists, &account)
               ? -1
               : 0;
  }

  // What stays, in one allocation, once its size is known.
  template <int Pieces> int allocate_list(gather *list) {
    const int classes = shape.classes;
    std::vector<unsigned long long> sums(2 * classes + 1);
    GPU_TRY(cudaMemcpy(sums.data(), totals, sums.size() * sizeof sums[0], cudaMemcpyDeviceToHost));
    int64_t stages = 0, count = 0;
    for (int c = 0; c < classes; c++) {
      stages += (int64_t)sums[c];
      count = std::max(count, (int64_t)sums[classes + c]);
    }
    if (stages > INT32_MAX) {
      attn_error_set(false, "the mask needs more than %d stages of keys, more than a list holds", INT32_MAX);
      return -1;
    }
    const int64_t stages_bytes = stages * (int64_t)sizeof(gather_stage<Pieces>),
                  tiles_bytes = classes * count * (int64_t)sizeof(gather_tile);
    char *base;
    list->rounds = (int64_t)sums[2 * classes];
    list->bytes = stages_bytes + tiles_bytes + 2 * (int64_t)sizeof(int32_t);
    if (gpu_check(cudaMalloc(&base, list->bytes), "allocating the gather list"))
      return -1;
    char *tiles = base + stages_bytes;
    list->view = {(gather_tile *)tiles, base,        Pieces, (int32_t)count, classes,
                  shape.heads,          (int32_t *)(tiles + tiles_bytes)};
    GPU_TRY(cudaMemset(base, 0, list->bytes)); // pieces that nobody sees; where a class has fewer: no tiles
    return 0;
  }

  template <int Pieces, class Rep> int build(gather *list, const Rep &rep) {
    const list_shape &s = shape;
    const unsigned blocks = (unsigned)(((int64_t)s.classes * s.lists + 31) / 32);
    cut_rows<Rep><<<s.classes, 32>>>(rep, s, parts, cut);
    count_stages<Pieces, Rep><<<blocks, 32>>>(rep, s, parts, cut, drafts, totals);
    place_lists<<<blocks, 32>>>(s, cut, totals, drafts);
    GPU_LAUNCHED("counting the gather list");
    if (allocate_list<Pieces>(list))
      return -1;
    write_lists<Pieces, Rep><<<blocks, 32>>>(rep, s, cut, drafts,
                                             (gather_stage<Pieces> *)list->view.stages,
                                             (gather_tile *)list->view.tiles, list->view.count);
    GPU_LAUNCHED("writing the gather list");
    GPU_TRY(cudaDeviceSynchronize());
    return 0;
  }
};

} // namespace

int gather_build(gather *list, const rep_device *rep, const attn_problem *p) {
  memset(list, 0, sizeof *list);
  builder b = {};
  if (b.allocate(p))
    return -1;
  // Blocks of whole pieces of 64 lose nothing by them; others lose half a piece at each end of a stretch.
  const bool halves = p->mask->kind == MASK_UNIFORM_BLOCK_SPARSE && p->mask->block % 64 == 0;
  if (!strcmp(rep->ops->name, "blocklist")) {
    const blocklist &x = *(const blocklist *)rep->copy;
    return halves ? b.build<2>(list, x) : b.build<4>(list, x);
  }
  const varblock &x = *(const varblock *)rep->copy;
  return halves ? b.build<2>(list, x) : b.build<4>(list, x);
}

void gather_free(gather *list) {
  cudaFree((void *)list->view.stages);
  memset(list, 0, sizeof *list);
}
