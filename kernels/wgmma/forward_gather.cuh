// forward_gather.cuh -- the forward kernel's producers over a gather list (gather.h): each stage of K and
// of V is put together from pieces of 64 or 32 keys that lie anywhere.
//
// One thread walks the list and loads K and Q; one of another warp follows its steps and loads V, each
// after its K is there: V is needed a step later, and a thread takes 1000 clocks or so to issue all.
//
// Packed, consumers are those of whole tiles. Of unlike halves (forward_gather_consumer.cuh) a warpgroup passes over
// the other's stages. It gives up its share of K there, and has none of V: the owner releases V for both. For the
// turns of the two warpgroups nothing changes, as a round is a step of each.
#ifndef LONGCA_WGMMA_FORWARD_GATHER_CUH
#define LONGCA_WGMMA_FORWARD_GATHER_CUH

#include "forward_producer.cuh"

namespace wgmma {

template <int Dim, class Mask> struct gather_producer {
  static constexpr int Pieces = fwd_shape<Mask>::Pieces;
  static constexpr bool Halves = fwd_shape<Mask>::Halves;
  const fwd_params &p;
  fwd_smem<Dim, Mask> &s;

  // Part `part` of a stage, of which it has `parts`.
  __device__ static void load_part(const CUtensorMap *map, uint16_t *stage, int part, int parts, int row,
                                   int head, uint64_t *full) {
#pragma unroll
    for (int c = 0; c < Dim / 64; c++)
      ptx::tma_load_4d(stage + (c * parts + part) * (FWD_KEYS / parts) * 64, map, 0, c, head, row, full);
  }

  __device__ static void load(const CUtensorMap *map, uint16_t *stage, const int (&row)[4], int head,
                              uint64_t *full) {
    ptx::mbarrier_arrive_expect(full, FWD_KEYS * Dim * 2);
#pragma unroll
    for (int i = 0; i < Pieces; i++)
      load_part(map, stage, i, Pieces, row[i], head, full);
  }

  // Q of query tile qn, of which `part` is split_part.rows. Unlike halves: each once its warpgroup has done with
  // the tile before.
  __device__ void load_q(const gather_tile *tile, int part, int head, uint32_t qn) {
    if constexpr (Halves) {
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const int row = __ldg(&tile->row[h]);
        ptx::mbarrier_wait(&s.q_empty[h], qn % 2 ^ 1);
        s.tile[h] = {row, 0, __ldg(&tile->rows[h]) | part, head};
        ptx::mbarrier_arrive_expect(&s.q_full[h], GATHER_ROWS * Dim * 2);
        load_part(&p.q[0], s.q[0][0], h, 2, row, head, &s.q_full[h]);
      }
    } else {
      const int row = __ldg(&tile->row[0]), rows = __ldg(&tile->rows[0]) + __ldg(&tile->rows[1]);
      const uint32_t stage = empty_q(qn);
      s.tile[stage] = {row, 0, rows | part, head};
      ptx::mbarrier_arrive_expect(&s.q_full[stage], FWD_ROWS * Dim * 2);
      load_part(&p.q[0], s.q[stage][0], 0, 1, row, head, &s.q_full[stage]);
    }
  }
  __device__ uint32_t empty_q(uint32_t qn) {
    ptx::mbarrier_wait(&s.q_empty[qn % 2], qn / 2 % 2 ^ 1);
    return qn % 2;
  }

  __device__ int fetch() { return atomicAdd(p.gather.counter, 1); } // next work index

  __device__ void stream_k() {
    const gather_view &list = p.gather;
    const int units = p.heads / list.heads, total = list.count * units - p.split.works + p.split.count;
    fwd_place at;
    uint32_t qn = 0; // query tiles so far
    for (int work = fetch(); work < total;) {
      const int ahead = fetch(); // its latency passes under this tile
      const gather_tile *tile = list.tiles;
      int head, begin, end, part = 0;
      if (static_cast<uint32_t>(work - p.split.begin) < static_cast<uint32_t>(p.split.count)) {
        const int4 *words = reinterpret_cast<const int4 *>(p.split.parts + (work - p.split.begin));
        const int4 where = __ldg(words), stages = __ldg(words + 1);
        tile += where.x;
        part = where.z;
        head = where.w * list.heads;
        begin = stages.x;
        end = begin + stages.z;
      } else {
        const int behind = work < p.split.begin ? 0 : p.split.works - p.split.count;
        const fwd_work item(work + behind, list.count, units, p.heads_section / list.heads);
        head = item.head * list.heads;
        tile += (list.classes == 1 ? 0 : (int64_t)(head / p.group) * list.count) + item.rank;
        begin = __ldg(&tile->begin);
        end = __ldg(&tile->end);
      }
      const int head_kv = head / p.group;
      for (int i = begin; i < end; i++) { // none: no tile
        // Mostly under way while the stage is waited for: {rows, valid, flags}.
        const int4 *at_list = static_cast<const int4 *>(list.stages) + Pieces / 2 * (int64_t)i;
        const int4 a = __ldg(at_list);
        gathered_step step;
        if constexpr (Pieces == 2) {
          const uint32_t valid = a.z;
          step = {static_cast<int>(valid & 0xffff), static_cast<int>(valid >> 16), a.w, head_kv, {a.x, a.y}};
        } else {
          const int4 b = __ldg(at_list + 1);
          step = {b.x, b.y, b.z, head_kv, {a.x, a.y, a.z, a.w}};
        }
        if constexpr (Halves) { // the first and the last step of either: a stage for both, or one each
          if (i == begin || (i == begin + 1 && step.flags & STEP_ONLY << 1))
            step.flags |= STEP_FIRST;
          if (i == end - 1 || (i == end - 2 && step.flags & STEP_ONLY))
            step.flags |= STEP_LAST;
        } else
          step.flags = (i == begin ? STEP_FIRST : 0) | (step.seen != pieces_whole(Pieces) ? STEP_PARTIAL : 0);
        ptx::mbarrier_wait(&s.k_empty[at.stage()], at.parity() ^ 1);
        s.step[at.stage()] = step;
        load(&p.k, s.k[at.stage()][0], step.row, head_kv, &s.k_full[at.stage()]);
        at.next();
        // Of unlike halves, Q must wait for the last products of the tile before, which the first stages need not.
        // Packed, for O of the one before that, which is placed when the tile before has begun.
        if (i == (Halves ? min(begin + 1, end - 1) : begin))
          load_q(tile, part, head, qn++);
      }
      work = ahead;
    }
    ptx::mbarrier_wait(&s.k_empty[at.stage()], at.parity() ^ 1);
    s.step[at.stage()] = {0, 0, STEP_STOP};
    ptx::mbarrier_arrive(&s.k_full[at.stage()]);
    if constexpr (!Halves) {
      const uint32_t stage = empty_q(qn);
      s.tile[stage] = {0, 0, 0, 0}; // no rows: store() ends
      ptx::mbarrier_arrive(&s.q_full[stage]);
    }
    work_done(list.counter);
  }

  __device__ void stream_v() {
    fwd_place at;
    for (uint32_t n = 0;; n++, at.next()) {
      const uint32_t v = Halves ? at.stage() : n % 2, parity = Halves ? at.parity() : n / 2 % 2;
      ptx::mbarrier_wait(&s.k_full[at.stage()], at.parity());
      const gathered_step &step = s.step[at.stage()];
      const int4 a = ptx::load_shared(&step), b = ptx::load_shared(&step.row);
      if (a.z & STEP_STOP)
        break;
      ptx::mbarrier_arrive(&s.k_empty[at.stage()]);
      ptx::mbarrier_wait(&s.v_empty[v], parity ^ 1);
      load(&p.v, s.v[v][0], {b.x, b.y, b.z, b.w}, a.w, &s.v_full[v]);
    }
  }

  __device__ __forceinline__ void store() { // packed
    store_tiles(p, s, [&](uint32_t stage, const fwd_tile &tile) {
#pragma unroll
      for (int c = 0; c < Dim / 64; c++)
        ptx::tma_store_4d(&p.o_tiles[0], s.q[stage][c], 0, c, tile.head, tile.row);
    });
  }

  __device__ __forceinline__ void run() {
    if (threadIdx.x == 0)
      stream_k();
    else if (threadIdx.x == 32)
      stream_v();
    else if (!Halves && threadIdx.x == 64)
      store();
  }
};
template <int Dim, int Pieces> struct fwd_producer<Dim, packed<Pieces>> : gather_producer<Dim, packed<Pieces>> {};
template <int Dim, int Pieces> struct fwd_producer<Dim, halves<Pieces>> : gather_producer<Dim, halves<Pieces>> {};

} // namespace wgmma
#endif
