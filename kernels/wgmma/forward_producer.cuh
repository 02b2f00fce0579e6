// forward_producer.cuh -- the forward kernel's producer, one thread: takes query tiles from the work list
// and streams Q, K and V to shared memory. V trails K by one step, in the order that consumers need them.
#ifndef LONGCA_WGMMA_FORWARD_PRODUCER_CUH
#define LONGCA_WGMMA_FORWARD_PRODUCER_CUH

#include "forward_shared.cuh"

namespace wgmma {

template<class C> struct fwd_producer {
  const fwd_params &p;
  fwd_smem<C> &s;
  uint32_t cta;                            // rank in the cluster
  uint32_t qn = 0, kn = 0, vn = 0, wn = 0; // query tiles, K tiles, V tiles, work indices so far

  static constexpr uint32_t kv_bytes = C::Keys * C::Dim * 2, q_bytes = C::Rows * C::Dim * 2;

  // Next work index of this CTA's cluster. The first CTA asks the counter and tells the other.
  __device__ int fetch() {
    if constexpr (C::Cluster == 1)
      return atomicAdd(p.list.counter, 1);
    const uint32_t stage = wn % 2;
    if (cta == 0) {
      ptx::mbarrier_wait_cluster(&s.work_empty[stage], parity<2>(wn) ^ 1);
      const int work = atomicAdd(p.list.counter, 1);
      for (int i = 0; i < C::Cluster; i++)
        ptx::store_async_cluster(&s.work[stage], work, &s.work_full[stage], i);
    }
    ptx::mbarrier_arrive_expect(&s.work_full[stage], 4);
    ptx::mbarrier_wait_cluster(&s.work_full[stage], parity<2>(wn++));
    const int work = s.work[stage];
    ptx::mbarrier_arrive_cluster(&s.work_empty[stage], 0);
    return work;
  }

  // K or V tile at local row `row` of KV head `head`; in a cluster each CTA brings half for both.
  __device__ void load(const CUtensorMap *map, uint16_t *dst, int row, int head, uint64_t *full) {
    ptx::mbarrier_arrive_expect(full, kv_bytes);
    if constexpr (C::Cluster == 1)
      ptx::tma_load_4d(dst, map, 0, row, 0, head, full);
    else if constexpr (C::Dim == 128)
      ptx::tma_load_4d_multicast(dst + cta * C::Keys * 64, map, 0, row, cta, head, full, 3);
    else
      ptx::tma_load_4d_multicast(dst + cta * C::Keys * 32, map, 0, row + cta * C::Keys / 2, 0, head,
                                 full, 3);
  }

  template<int Stages> __device__ uint32_t empty_stage(uint64_t *empty, uint32_t n) {
    if constexpr (C::Cluster == 1)
      ptx::mbarrier_wait(empty + n % Stages, parity<Stages>(n) ^ 1);
    else
      ptx::mbarrier_wait_cluster(empty + n % Stages, parity<Stages>(n) ^ 1);
    return n % Stages;
  }

  __device__ void load_v(int row, int head) {
    const uint32_t stage = empty_stage<C::Stages>(s.v_empty, vn++);
    load(&p.v, s.v[stage][0], row, head, &s.v_full[stage]);
  }

  __device__ void run() {
    const int per_section = p.heads_section / C::Cluster,
              total = p.list.count * (p.heads / C::Cluster);
    int v_row = -1, v_head = 0; // the V tile that trails the K tiles by one step
    for (int work = fetch(); work < total;) {
      const int ahead = fetch();
      const int section = work / (p.list.count * per_section),
                at = work - section * p.list.count * per_section;
      const int heads_here = min(per_section, p.heads / C::Cluster - section * per_section);
      const int rank = at / heads_here;
      const int head = (section * per_section + at - rank * heads_here) * C::Cluster + cta;
      const int head_kv = head / p.group, cls = p.list.classes == 1 ? 0 : head_kv;
      const int4 *words =
          reinterpret_cast<const int4 *>(p.list.items + (int64_t)cls * p.list.count + rank);
      const int4 where = __ldg(words),
                 runs = __ldg(words + 1); // {row, pos, rows, begin} {end, ...}

      const uint32_t q_stage = empty_stage<C::QStages>(s.q_empty, qn++);
      s.tile[q_stage] = {where.x, where.y, where.z, head};
      ptx::mbarrier_arrive_expect(&s.q_full[q_stage], q_bytes);
      ptx::tma_load_4d(s.q[q_stage][0], &p.q, 0, where.x, 0, head, &s.q_full[q_stage]);

      int flags = STEP_FIRST;
      for (int r = where.w; r < runs.x || flags;
           r++) { // a row without runs takes one step of nothing
        const int4 run = r < runs.x ? __ldg(reinterpret_cast<const int4 *>(p.list.runs) + r)
                                    : make_int4(0, 0, 1, -1); // {row, pos, tiles, valid}
        for (int t = 0; t < run.z; t++) {
          const int row = run.x + t * C::Keys;
          const uint32_t stage = empty_stage<C::Stages>(s.k_empty, kn++);
          const int valid = run.w < 0 ? 0 : t == run.z - 1 ? run.w : C::Keys;
          if (t == run.z - 1 && r + 1 >= runs.x)
            flags |= STEP_LAST;
          s.step[stage] = {run.y + t * C::Keys, valid, flags | (run.w ? STEP_PARTIAL : 0), 0};
          load(&p.k, s.k[stage][0], row, head_kv, &s.k_full[stage]);
          if (v_row >= 0)
            load_v(v_row, v_head);
          v_row = row;
          v_head = head_kv;
          flags = 0;
        }
      }
      work = ahead;
    }
    if (v_row >= 0)
      load_v(v_row, v_head);
    const uint32_t stage = empty_stage<C::Stages>(s.k_empty, kn);
    s.step[stage] = {0, 0, STEP_STOP, 0};
    ptx::mbarrier_arrive(&s.k_full[stage]);
    // The last CTA leaves the counter as it found it.
    if (atomicAdd(p.list.counter + 1, 1) == gridDim.x - 1) {
      p.list.counter[0] = 0;
      p.list.counter[1] = 0;
    }
  }
};

} // namespace wgmma
#endif
