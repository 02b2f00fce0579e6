// forward_gather.cuh -- the forward kernel's producer over a gather list (gather.h): each stage of K and
// of V is put together from two pieces of 64 keys that lie anywhere.
//
// What differs for consumers (forward_consumer.cuh): a warpgroup passes over the other's stages. It gives
// up its share of K there, and has none of V: the owner releases V for both. For the turns of the two
// warpgroups nothing changes, as a round is a step of each.
#ifndef LONGCA_WGMMA_FORWARD_GATHER_CUH
#define LONGCA_WGMMA_FORWARD_GATHER_CUH

#include "forward_producer.cuh"

namespace wgmma {

template <int Dim> struct fwd_producer<Dim, gathered> {
  static constexpr int PIECE = GATHER_KEYS * 64; // elements of a piece's chunk of 64 columns
  const fwd_params &p;
  fwd_smem<Dim, gathered> &s;
  uint32_t q_parity = 1; // that a wait for Q's place to be empty needs
  fwd_place at;          // of K

  __device__ int fetch() { return atomicAdd(p.gather.counter, 1); } // next work index

  // 64 rows into half `half` of a stage.
  __device__ void load_half(const CUtensorMap *map, uint16_t *stage, int half, int row, int head,
                            uint64_t *full) {
#pragma unroll
    for (int c = 0; c < Dim / 64; c++)
      ptx::tma_load_4d(stage + (2 * c + half) * PIECE, map, 0, row, 0, head * (Dim / 64) + c, full);
  }

  __device__ void load(const CUtensorMap *map, uint16_t *stage, int row0, int row1, int head,
                       uint64_t *full) {
    ptx::mbarrier_arrive_expect(full, FWD_KEYS * Dim * 2);
    load_half(map, stage, 0, row0, head, full);
    load_half(map, stage, 1, row1, head, full);
  }

  __device__ void load_v(fwd_place at, int2 rows, int head) {
    ptx::mbarrier_wait(&s.v_empty[at.stage()], at.parity() ^ 1);
    load(&p.v, s.v[at.stage()][0], rows.x, rows.y, head, &s.v_full[at.stage()]);
  }

  // Each half of the tile once its warpgroup has done with the one before.
  __device__ void load_q(const gather_tile *tile, int head) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const int row = __ldg(&tile->row[h]), own = head + (p.gather.heads == 2 ? h : 0);
      ptx::mbarrier_wait(&s.q_empty[h], q_parity);
      s.tile[h] = {row, 0, __ldg(&tile->rows[h]), own};
      ptx::mbarrier_arrive_expect(&s.q_full[h], GATHER_ROWS * Dim * 2);
      load_half(&p.q, s.q[0][0], h, row, own, &s.q_full[h]);
    }
    q_parity ^= 1;
  }

  __device__ __forceinline__ void run() {
    const gather_view &list = p.gather;
    const int units = p.heads / list.heads, total = list.count * units;
    fwd_place v_at; // V trails K by one stage
    int2 v = make_int2(-1, 0);
    int v_head = 0;
    for (int work = fetch(); work < total;) {
      const int ahead = fetch(); // its latency passes under this tile
      const fwd_work item(work, list.count, units, p.heads_section / list.heads);
      const int head = item.head * list.heads, head_kv = head / p.group;
      const gather_tile *tile =
          list.tiles + (list.classes == 1 ? 0 : (int64_t)head_kv * list.count) + item.rank;
      const int begin = __ldg(&tile->begin), end = __ldg(&tile->end);
      for (int i = begin; i < end; i++) {
        // {row, row, valid, flags}; mostly under way while the stage is waited for
        const int4 now = __ldg(reinterpret_cast<const int4 *>(list.stages + i));
        ptx::mbarrier_wait(&s.k_empty[at.stage()], at.parity() ^ 1);
        s.step[at.stage()] = {0, now.z, now.w, 0};
        load(&p.k, s.k[at.stage()][0], now.x, now.y, head_kv, &s.k_full[at.stage()]);
        if (v.x >= 0)
          load_v(v_at, v, v_head);
        v_at = at;
        v = make_int2(now.x, now.y);
        v_head = head_kv;
        at.next();
        // Q must wait for the last products of the tile before, which the first stages need not.
        if (i == min(begin + 1, end - 1))
          load_q(tile, head);
      }
      work = ahead;
    }
    if (v.x >= 0)
      load_v(v_at, v, v_head);
    ptx::mbarrier_wait(&s.k_empty[at.stage()], at.parity() ^ 1);
    s.step[at.stage()] = {0, 0, STEP_STOP, 0};
    ptx::mbarrier_arrive(&s.k_full[at.stage()]);
    work_done(list.counter);
  }
};

} // namespace wgmma
#endif
