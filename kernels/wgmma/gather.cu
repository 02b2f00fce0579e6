// gather.cu -- makes gather lists on the device (gather.h), and runs the forward kernel over them.
//
// The host cuts query rows into halves and these into tiles. Two passes of one kernel, a thread a tile,
// merge the lists of the tile's halves: the first counts stages, the second writes them. Between them the
// host sorts the tiles of each class, longest first, and gives out the places.
#include "gather.h"

#include <string.h>

#include <algorithm>
#include <vector>

#include "../gpu.cuh"
#include "../rep_device.h"
#include "forward_gather.cuh"
#include "launch.cuh"

namespace {

struct half { // of a tile: query rows of one block row; rows 0: none
  int32_t row, pos, rows; // pos -1: padding, sees nothing
};
struct draft { // of a tile
  gather_tile tile;
  int32_t pos[2];
  int32_t rounds;
};

__device__ __forceinline__ int64_t list_row(const blocklist *x, int head, int pos) {
  return blocklist_row(x, head, pos);
}
__device__ __forceinline__ int64_t list_row(const varblock *x, int head, int pos) {
  return varblock_row(x, head, pos);
}
__device__ __forceinline__ block_axis key_axis(const blocklist *x, int) { return blocklist_axis(x); }
__device__ __forceinline__ block_axis key_axis(const varblock *x, int head) {
  return varblock_cols(x, head);
}

// Places the pieces of a tile. Who sees one is a bit a half: 1, 2, or 3 for both.
template <int Pieces> struct piece_writer {
  static constexpr int KEYS = GATHER_KEYS / Pieces;
  gather_stage<Pieces> *out; // NULL: only count
  int32_t pairs, for_both;   // rounds of a stage for each half; stages for both, which come first
  int32_t seen[4] = {};      // pieces so far, by who sees them
  int32_t shared = 0;        // of these, in stages for both

  __device__ void put(int32_t stage, int32_t slot, int32_t who, int32_t row, int32_t keys, int32_t flags) {
    gather_stage<Pieces> &s = out[stage];
    if (!slot) { // pieces that never come are the first again, of which nothing is seen
      s = {};
      s.flags = flags;
      for (int32_t &r : s.row)
        r = row;
    }
    s.row[slot] = row;
    for (int h = 0; h < 2; h++)
      s.valid[h][slot] = who >> h & 1 ? keys : 0;
  }

  __device__ void add(int32_t who, int32_t row, int32_t keys) {
    const int32_t i = seen[who]++;
    if (!out)
      return;
    if (who != 3 && i < pairs * Pieces) {
      put(for_both + 2 * (i / Pieces) + (who == 2), i % Pieces, who, row, keys, wgmma::STEP_ONLY * who);
    } else {
      put(shared / Pieces, shared % Pieces, who, row, keys, 0);
      shared++;
    }
  }
};

// The pieces of a tile, in the order of keys within a segment. Neighbouring blocks that the same halves
// see are one stretch, which is cut from its beginning.
template <int Pieces, class Rep>
__device__ void walk_pieces(const Rep *rep, int head, const draft &d, const attn_segment *segments,
                            int32_t segment_count, piece_writer<Pieces> &w) {
  const block_axis axis = key_axis(rep, head);
  const block_lists &l = rep->q2k;
  int64_t row[2];
  for (int h = 0; h < 2; h++)
    row[h] = d.tile.rows[h] && d.pos[h] >= 0 ? list_row(rep, head, d.pos[h]) : -1;
  const bool one = row[0] == row[1];
  for (int s = 0; s < segment_count; s++) {
    const attn_segment seg = segments[s];
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

template <int Pieces, class Rep>
__global__ void gather_walk(Rep rep, draft *drafts, int32_t drafts_count, int32_t a_class,
                            const attn_segment *segments, int32_t segment_count, gather_stage<Pieces> *stages) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= drafts_count)
    return;
  draft d = drafts[i];
  piece_writer<Pieces> count = {};
  walk_pieces(&rep, i / a_class, d, segments, segment_count, count);
  const int32_t *seen = count.seen, pairs = min(seen[1], seen[2]) / Pieces;
  const int32_t rest = seen[3] + seen[1] + seen[2] - 2 * pairs * Pieces;
  const int32_t for_both = pairs || rest ? (rest + Pieces - 1) / Pieces : 1; // no keys: a step of nothing
  if (!stages) {
    drafts[i].tile.pairs = pairs;
    drafts[i].tile.end = for_both + 2 * pairs;
    drafts[i].rounds = for_both + pairs;
    return;
  }
  piece_writer<Pieces> w = {stages + d.tile.begin, pairs, for_both};
  if (for_both)
    w.put(0, 0, 0, 0, 0, 0);
  walk_pieces(&rep, i / a_class, d, segments, segment_count, w);
  for (int h = 0; h < 2; h++) {
    if (h == 0 || !for_both)
      w.out[h].flags |= wgmma::STEP_FIRST;
    if (h == 0 || pairs)
      w.out[for_both + 2 * pairs - 1 - h].flags |= wgmma::STEP_LAST;
  }
}

struct builder {
  gpu_memory memory; // while building
  std::vector<draft> drafts;
  draft *device_drafts;
  attn_segment *segments;
  int32_t segment_count, count, classes, pieces;

  // Rows of an axis position range, cut at 64 and at block rows' ends.
  static void cut(std::vector<half> &halves, const attn_segment &s, const int32_t *block_begin,
                  int32_t blocks) {
    for (int32_t at = s.pos, b = mask_find(block_begin, blocks, at); at < s.pos + s.len; b++)
      for (const int32_t end = std::min(block_begin[b + 1], s.pos + s.len); at < end;) {
        const int32_t rows = std::min<int32_t>(GATHER_ROWS, end - at);
        halves.push_back({s.row + at - s.pos, at, rows});
        at += rows;
      }
  }
  static void cut_padding(std::vector<half> &halves, int32_t row, int32_t end) {
    for (; row < end; row += GATHER_ROWS)
      halves.push_back({row, -1, std::min<int32_t>(GATHER_ROWS, end - row)});
  }

  // Tiles of all classes; where one has fewer, empty ones follow.
  void make_tiles(const attn_problem *p, int32_t heads) {
    const mask *m = p->mask;
    const attn_segment whole = {0, 0, p->rows_q};
    const attn_segment *q = p->q_seg ? p->q_seg : &whole;
    std::vector<std::vector<half>> of_class(classes);
    count = 0;
    for (int32_t c = 0; c < classes; c++) {
      std::vector<half> &halves = of_class[c];
      int32_t done = 0;
      for (int32_t s = 0; s < (p->q_seg ? p->q_segs : 1); s++) {
        cut_padding(halves, done, q[s].row);
        cut(halves, q[s], m->row_begin + (int64_t)c * (m->blocks_q + 1), m->blocks_q);
        done = q[s].row + q[s].len;
      }
      cut_padding(halves, done, p->rows_q);
      const int32_t n = (int32_t)halves.size();
      count = std::max(count, heads == 2 ? n : (n + 1) / 2);
    }
    for (const std::vector<half> &halves : of_class)
      for (int32_t i = 0; i < count; i++) {
        draft d = {};
        for (int32_t h = 0; h < 2; h++) {
          const size_t at = heads == 2 ? i : 2 * i + h;
          const half none = {0, -1, 0}, x = at < halves.size() ? halves[at] : none;
          d.tile.row[h] = x.row, d.tile.rows[h] = x.rows, d.pos[h] = x.pos;
        }
        drafts.push_back(d);
      }
  }

  template <int Pieces, class Rep> void launch_as(const rep_device *rep, void *stages) {
    const int n = (int)drafts.size();
    gather_walk<Pieces, Rep>
        <<<(n + 31) / 32, 32>>>(*(const Rep *)rep->copy, device_drafts, n, count, segments, segment_count,
                                static_cast<gather_stage<Pieces> *>(stages));
  }
  int launch(const rep_device *rep, void *stages) {
    const bool equal = !strcmp(rep->ops->name, "blocklist");
    if (pieces == 2)
      equal ? launch_as<2, blocklist>(rep, stages) : launch_as<2, varblock>(rep, stages);
    else
      equal ? launch_as<4, blocklist>(rep, stages) : launch_as<4, varblock>(rep, stages);
    GPU_LAUNCHED("building the gather list");
    GPU_TRY(cudaDeviceSynchronize());
    return 0;
  }
};

} // namespace

int gather_build(gather *list, const rep_device *rep, const attn_problem *p) {
  memset(list, 0, sizeof *list);
  builder b = {};
  const attn_segment whole = {0, 0, p->rows_k};
  const int32_t heads = p->heads_q / p->heads_kv % 2 ? 1 : 2;
  int64_t account = 0, stages = 0;
  // Blocks of whole pieces of 64 lose nothing by them; others lose half a piece at each end of a stretch.
  b.pieces = p->mask->kind == MASK_UNIFORM_BLOCK_SPARSE && p->mask->block % 64 == 0 ? 2 : 4;
  b.classes = std::max(p->mask->heads, 1);
  b.make_tiles(p, heads);
  b.segment_count = p->k_seg ? p->k_segs : 1;
  const int64_t n = (int64_t)b.drafts.size();
  if (b.memory.copy(&b.segments, p->k_seg ? p->k_seg : &whole, b.segment_count, &account) ||
      b.memory.copy(&b.device_drafts, b.drafts.data(), n, &account) || b.launch(rep, NULL))
    return -1;
  GPU_TRY(cudaMemcpy(b.drafts.data(), b.device_drafts, n * sizeof(draft), cudaMemcpyDeviceToHost));
  std::vector<gather_tile> tiles;
  for (int32_t c = 0; c < b.classes; c++)
    std::stable_sort(b.drafts.begin() + (int64_t)c * b.count, b.drafts.begin() + (int64_t)(c + 1) * b.count,
                     [](const draft &x, const draft &y) { return x.rounds > y.rounds; });
  for (draft &d : b.drafts) {
    d.tile.begin = (int32_t)stages;
    d.tile.end += (int32_t)stages;
    stages += d.tile.end - d.tile.begin;
    list->rounds += d.rounds;
    tiles.push_back(d.tile);
    if (stages > INT32_MAX) {
      attn_error_set(false, "the mask needs more than %d stages of keys, more than a list holds", INT32_MAX);
      return -1;
    }
  }
  // What stays, in one allocation.
  const int64_t tiles_bytes = n * sizeof(gather_tile);
  const int64_t stages_bytes =
      stages * (b.pieces == 2 ? sizeof(gather_stage<2>) : sizeof(gather_stage<4>));
  char *memory;
  list->bytes = tiles_bytes + stages_bytes + 2 * sizeof(int32_t);
  if (gpu_check(cudaMalloc(&memory, list->bytes), "allocating the gather list"))
    return -1;
  char *of_tiles = memory + tiles_bytes;
  list->view = {(gather_tile *)memory, of_tiles, b.pieces, b.count, b.classes, heads,
                (int32_t *)(of_tiles + stages_bytes)};
  GPU_TRY(cudaMemcpy(memory, tiles.data(), tiles_bytes, cudaMemcpyHostToDevice));
  GPU_TRY(cudaMemset(list->view.counter, 0, 2 * sizeof(int32_t)));
  GPU_TRY(cudaMemcpy(b.device_drafts, b.drafts.data(), n * sizeof(draft), cudaMemcpyHostToDevice));
  return b.launch(rep, of_tiles);
}

void gather_free(gather *list) {
  cudaFree((void *)list->view.tiles);
  memset(list, 0, sizeof *list);
}

namespace wgmma {

template <int Dim, int Pieces>
static int run(const gather *list, const attn_problem *p, const attn_args *a) {
  fwd_params f = forward_params(p, a);
  constexpr int chunks = Dim / 64, keys = GATHER_KEYS / Pieces; // as heads of 64
  if (tensor_map(&f.q, a->q, p->rows_q, p->heads_q * chunks, 64, GATHER_ROWS) ||
      tensor_map(&f.k, a->k, p->rows_k, p->heads_kv * chunks, 64, keys) ||
      tensor_map(&f.v, a->v, p->rows_k, p->heads_kv * chunks, 64, keys))
    return -1;
  f.gather = list->view;
  gathered<Pieces> none;
  void *args[] = {&f, &none};
  return launch(GPU_ENTRY(fwd_kernel<Dim, gathered<Pieces>>), args,
                (int64_t)list->view.count * (p->heads_q / list->view.heads),
                fwd_smem_bytes<Dim, gathered<Pieces>>(), a->stream);
}

} // namespace wgmma

int gather_forward(const gather *list, const attn_problem *p, const attn_args *a) {
  if (list->view.pieces == 2)
    return p->dim == 64 ? wgmma::run<64, 2>(list, p, a) : wgmma::run<128, 2>(list, p, a);
  return p->dim == 64 ? wgmma::run<64, 4>(list, p, a) : wgmma::run<128, 4>(list, p, a);
}
