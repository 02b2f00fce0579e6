// forward_gather.cuh -- the forward kernel's producers over a gather list (gather.h): each stage of K and
// of V is put together from two pieces of 64 keys that lie anywhere.
//
// One thread walks the list and loads K and Q; one of another warp follows its steps and loads V, each
// after its K is there: V is needed a step later, and a thread takes 1000 clocks or so to issue all.
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

  // Each half of the tile once its warpgroup has done with the one before, whose number has this parity.
  __device__ void load_q(const gather_tile *tile, int head, uint32_t before) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const int row = __ldg(&tile->row[h]), own = head + (p.gather.heads == 2 ? h : 0);
      ptx::mbarrier_wait(&s.q_empty[h], before);
      s.tile[h] = {row, 0, __ldg(&tile->rows[h]), own};
      ptx::mbarrier_arrive_expect(&s.q_full[h], GATHER_ROWS * Dim * 2);
      load_half(&p.q, s.q[0][0], h, row, own, &s.q_full[h]);
    }
  }

  __device__ int fetch() { return atomicAdd(p.gather.counter, 1); } // next work index

  __device__ void stream_k() {
    const gather_view &list = p.gather;
    const int units = p.heads / list.heads, total = list.count * units;
    fwd_place at;
    uint32_t q_before = 1;
    for (int work = fetch(); work < total;) {
      const int ahead = fetch(); // its latency passes under this tile
      const fwd_work item(work, list.count, units, p.heads_section / list.heads);
      const int head = item.head * list.heads, head_kv = head / p.group;
      const gather_tile *tile =
          list.tiles + (list.classes == 1 ? 0 : (int64_t)head_kv * list.count) + item.rank;
      const int begin = __ldg(&tile->begin), end = __ldg(&tile->end);
      for (int i = begin; i < end; i++) {
        // {row, row, valid, flags}; mostly under way while the stage is waited for
        const int4 step = __ldg(reinterpret_cast<const int4 *>(list.stages + i));
        ptx::mbarrier_wait(&s.k_empty[at.stage()], at.parity() ^ 1);
        s.step[at.stage()] = {step.x, step.z, step.w | head_kv * STEP_HEAD, step.y};
        load(&p.k, s.k[at.stage()][0], step.x, step.y, head_kv, &s.k_full[at.stage()]);
        at.next();
        // Q must wait for the last products of the tile before, which the first stages need not.
        if (i == min(begin + 1, end - 1)) {
          load_q(tile, head, q_before);
          q_before ^= 1;
        }
      }
      work = ahead;
    }
    ptx::mbarrier_wait(&s.k_empty[at.stage()], at.parity() ^ 1);
    s.step[at.stage()] = {0, 0, STEP_STOP, 0};
    ptx::mbarrier_arrive(&s.k_full[at.stage()]);
    work_done(list.counter);
  }

  __device__ void stream_v() {
    for (fwd_place at;; at.next()) {
      ptx::mbarrier_wait(&s.k_full[at.stage()], at.parity());
      const int4 step = ptx::load_shared(&s.step[at.stage()]); // {row, valid, flags, row}
      if (step.z & STEP_STOP)
        break;
      ptx::mbarrier_arrive(&s.k_empty[at.stage()]);
      ptx::mbarrier_wait(&s.v_empty[at.stage()], at.parity() ^ 1);
      load(&p.v, s.v[at.stage()][0], step.x, step.w, step.z / STEP_HEAD, &s.v_full[at.stage()]);
    }
  }

  __device__ __forceinline__ void run() {
    if (threadIdx.x == 0)
      stream_k();
    else if (threadIdx.x == 32)
      stream_v();
  }
};

} // namespace wgmma
#endif
