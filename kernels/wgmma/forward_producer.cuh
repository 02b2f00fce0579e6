// forward_producer.cuh -- the forward kernel's producer, one thread: takes query tiles from the work list
// and streams Q, K and V to shared memory. V trails K by one step, in the order that consumers need them.
// A thread of another warp takes O from where Q was to memory, so that neither it nor the consumers wait for that.
#ifndef LONGCA_WGMMA_FORWARD_PRODUCER_CUH
#define LONGCA_WGMMA_FORWARD_PRODUCER_CUH

#include "../ptx/bulk.cuh"
#include "forward_shared.cuh"

namespace wgmma {

// O of tile after tile to memory, by put(stage of its Q, tile), and Q's stage back when it has been read.
template <class Smem, class Put>
static __device__ __forceinline__ void store_tiles(const fwd_params &p, Smem &s, const Put &put) {
  for (uint32_t n = 0;; n++) {
    const uint32_t stage = n % 2, parity = n / 2 % 2;
    ptx::mbarrier_wait(&s.q_full[stage], parity);
    const int4 v = ptx::load_shared(&s.tile[stage]);
    const fwd_tile tile = {v.x, v.y, v.z, v.w};
    if (!tile.rows())
      break;
    ptx::mbarrier_wait(&s.q_done[stage], parity);
    if (stored_whole(p, tile)) {
      put(stage, tile);
      ptx::bulk_commit();
      ptx::bulk_wait_read<0>();
    }
    ptx::mbarrier_arrive(&s.q_empty[stage]);
  }
}

template <int Dim, class Mask> struct fwd_producer {
  const fwd_params &p;
  fwd_smem<Dim, Mask> &s;
  uint32_t qn = 0, vn = 0; // query tiles, V tiles so far
  fwd_place k;             // of the next K tile

  __device__ int fetch() { return atomicAdd(p.list.counter, 1); } // next work index

  __device__ void load(const CUtensorMap *map, uint16_t *dst, int row, int head, uint64_t *full) {
    ptx::mbarrier_arrive_expect(full, FWD_KEYS * Dim * 2);
    ptx::tma_load_4d(dst, map, 0, row, 0, head, full);
  }

  // Stage of item n of a stream with two, once it is empty.
  __device__ uint32_t empty_stage(uint64_t *empty, uint32_t n) {
    ptx::mbarrier_wait(empty + n % 2, n / 2 % 2 ^ 1);
    return n % 2;
  }
  __device__ uint32_t empty_k() {
    ptx::mbarrier_wait(&s.k_empty[k.stage()], k.parity() ^ 1);
    return k.stage();
  }

  __device__ void load_v(int row, int head) {
    const uint32_t stage = empty_stage(s.v_empty, vn++);
    load(&p.v, s.v[stage][0], row, head, &s.v_full[stage]);
  }

  __device__ __forceinline__ void run() {
    if (threadIdx.x == 0)
      stream();
    else if (threadIdx.x == 32)
      store();
  }

  __device__ __forceinline__ void store() {
    store_tiles(p, s, [&](uint32_t stage, const fwd_tile &tile) {
      const fwd_owner to = owner_of(p, tile.row);
      ptx::tma_store_4d(&p.o_tiles[to.owner], s.q[stage][0], 0, to.row, 0, tile.head);
    });
  }

  __device__ __forceinline__ void stream() {
    const int total = p.list.count * p.heads - p.split.works + p.split.count;
    int v_row = -1, v_head = 0; // the V tile that trails the K tiles by one step
    for (int work = fetch(); work < total;) {
      const int ahead = fetch(); // its latency passes under this tile
      int4 tile, tiles; // fwd_tile; {run, of which tiles to skip, tiles}
      if (static_cast<uint32_t>(work - p.split.begin) < static_cast<uint32_t>(p.split.count)) {
        const int4 *words = reinterpret_cast<const int4 *>(p.split.parts + (work - p.split.begin));
        tile = __ldg(words);
        tiles = __ldg(words + 1);
      } else {
        const int behind = work < p.split.begin ? 0 : p.split.works - p.split.count;
        const fwd_work at(work + behind, p.list.count, p.heads, p.heads_section);
        const int cls = p.list.classes == 1 ? 0 : at.head / p.group;
        const int4 *words =
            reinterpret_cast<const int4 *>(p.list.items + (int64_t)cls * p.list.count + at.rank);
        const int4 where = __ldg(words), runs = __ldg(words + 1); // {row, pos, rows, begin} {end, tiles, ...}
        tile = make_int4(where.x, where.y, where.z, at.head);
        tiles = make_int4(where.w, 0, runs.y, 0);
      }
      const int head = tile.w, head_kv = head / p.group;

      int flags = STEP_FIRST, left = max(tiles.z, 1); // a tile without keys takes one step of nothing
      for (int r = tiles.x, skip = tiles.y; left > 0; r++, skip = 0) {
        const int4 run = tiles.z ? __ldg(reinterpret_cast<const int4 *>(p.list.runs) + r)
                                 : make_int4(0, 0, 1, -1); // {row, pos, tiles, valid}
        const int bits = tiles.z && p.bits.first ? __ldg(p.bits.first + r) : -1; // of its first tile
        for (int t = skip; t < run.z && left > 0; t++) {
          const int row = run.x + t * FWD_KEYS;
          const uint32_t stage = empty_k();
          if (--left == 0)
            flags |= STEP_LAST;
          s.step[stage] = {bits + t, flags | (run.w ? STEP_PARTIAL : 0)}; // t is 0 where nothing is seen
          load(&p.k, s.k[stage][0], row, head_kv, &s.k_full[stage]);
          k.next();
          if (v_row >= 0)
            load_v(v_row, v_head);
          v_row = row;
          v_head = head_kv;
          if (flags & STEP_FIRST) {
            // Behind this K, and V of the step before: the tile before may have that step alone. It waits for
            // both, and only then is O of the tile before that placed where this Q goes.
            const uint32_t q_stage = empty_stage(s.q_empty, qn++);
            s.tile[q_stage] = {tile.x, tile.y, tile.z, head};
            ptx::mbarrier_arrive_expect(&s.q_full[q_stage], FWD_ROWS * Dim * 2);
            const fwd_owner from = owner_of(p, tile.x);
            ptx::tma_load_4d(s.q[q_stage][0], &p.q[from.owner], 0, from.row, 0, head, &s.q_full[q_stage]);
          }
          flags = 0;
        }
      }
      work = ahead;
    }
    if (v_row >= 0)
      load_v(v_row, v_head);
    const uint32_t stage = empty_k();
    s.step[stage] = {-1, STEP_STOP};
    ptx::mbarrier_arrive(&s.k_full[stage]);
    const uint32_t q_stage = empty_stage(s.q_empty, qn);
    s.tile[q_stage] = {0, 0, 0, 0}; // no rows: store() ends
    ptx::mbarrier_arrive(&s.q_full[q_stage]);
    work_done(p.list.counter);
  }
};

} // namespace wgmma
#endif
