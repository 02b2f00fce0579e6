// prep_reps.cu -- each representation from the mask, on the device (prep.cuh).
//
// dense     a thread a word asks the mask for its 64 pairs; the warp's lanes are 32 queries of the
//           same keys, so that what is read of a key is read once
// columns   the host builder's own functions, a thread a key, then a thread a bound
// blockmap  the class of each block, a lane a block, from the column bounds (made for that alone), or
//           from the grid of a block-sparse mask; then lists
// blocklist, varblock   lists of the bits that the mask keeps
// band stays with the host: it is a copy of what the mask has.
#include "prep.cuh"

#include <string.h>

#include <utility>

#include "rep/blocklist.h"
#include "rep/blockmap.h"
#include "rep/columns.h"
#include "rep/dense.h"
#include "rep/varblock.h"

namespace {

enum { THREADS = 256 };

unsigned blocks_of(int64_t threads) { return (unsigned)((threads + THREADS - 1) / THREADS); }

// The arrays that the mask's kind needs; the others' pointers stay the host's.
int mask_to_device(struct mask *device, const struct mask *m, gpu_memory &memory, int64_t *bytes) {
  const int64_t heads = m->heads, rows = m->blocks_q, columns = m->blocks_k;
  *device = *m;
  if (mask_has_docs(m->kind) && (memory.move(&device->doc_begin, (int64_t)m->docs + 1, bytes) ||
                                 memory.move(&device->doc_of, m->seqlen, bytes)))
    return -1;
  return heads && (memory.move(&device->row_begin, heads * (rows + 1), bytes) ||
                   memory.move(&device->col_begin, heads * (columns + 1), bytes) ||
                   memory.move(&device->kept, heads * rows * m->kept_words, bytes))
             ? -1
             : 0;
}

// ---- dense

// The kind is a constant of the kernel, so that a pair costs its one case.
template<int Kind> __global__ void write_words(dense x, struct mask m) {
  const int q = blockIdx.x * THREADS + threadIdx.x, w = blockIdx.y, head = blockIdx.z;
  if (q >= x.seqlen)
    return;
  const int32_t n = min(64, x.seqlen - w * 64);
  uint64_t word = 0;
  m.kind = (mask_kind)Kind;
  if (Kind == MASK_UNIFORM_BLOCK_SPARSE || Kind == MASK_VARIABLE_BLOCK_SPARSE)
    blockmap_grid_bits(&m, head, q, w * 64, n, &word);
  else
    for (int32_t j = 0; j < n; j++)
      word |= (uint64_t)mask_allows(&m, 0, q, w * 64 + j) << j;
  x.bits[((int64_t)head * x.seqlen + q) * x.words + w] = word;
}

template<int... Kind> auto write_words_of(int kind, std::integer_sequence<int, Kind...>) {
  void (*const kernels[])(dense, struct mask) = {write_words<Kind>...};
  return kernels[kind];
}

int build(dense *x, const struct mask *m, gpu_memory &memory, int64_t *bytes) {
  gpu_memory building;
  struct mask device;
  int64_t passing = 0;
  dense_shape(x, m);
  if (mask_to_device(&device, m, building, &passing) ||
      memory.get(&x->bits, (int64_t)x->heads * x->seqlen * x->words, bytes))
    return -1;
  const auto write = write_words_of(m->kind, std::make_integer_sequence<int, MASK_KINDS>());
  write<<<dim3(blocks_of(x->seqlen), x->words, x->heads), THREADS>>>(*x, device);
  GPU_LAUNCHED("writing the dense mask");
  GPU_TRY(cudaDeviceSynchronize()); // `building` ends here
  return 0;
}

// ---- columns

__global__ void write_columns(columns x, struct mask m) {
  const int k = blockIdx.x * THREADS + threadIdx.x;
  if (k < x.seqlen)
    columns_set(&x, &m, k);
}
__global__ void bound_fine(columns x) {
  const int i = blockIdx.x * THREADS + threadIdx.x;
  if (i < rep_tiles(0, x.seqlen, COLUMNS_BLOCK))
    columns_bound_fine(&x, i);
}
__global__ void bound_coarse(columns x) {
  const int i = blockIdx.x * THREADS + threadIdx.x;
  if (i < rep_tiles(0, x.seqlen, COLUMNS_COARSE))
    columns_bound_coarse(&x, i);
}

// From a mask on the device.
int build_columns(columns *x, const struct mask &m, gpu_memory &memory, int64_t *bytes) {
  const struct columns_vectors has = columns_shape(x, &m);
  const int32_t n = m.seqlen, fine = rep_tiles(0, n, COLUMNS_BLOCK),
                coarse = rep_tiles(0, n, COLUMNS_COARSE);
  if (memory.get(&x->lts, n, bytes) || memory.get(&x->lte, has.lte ? n : 0, bytes) ||
      memory.get(&x->uts, has.uts ? n : 0, bytes) || memory.get(&x->ute, has.ute ? n : 0, bytes) ||
      memory.get(&x->fine, fine, bytes) || memory.get(&x->coarse, coarse, bytes))
    return -1;
  write_columns<<<blocks_of(n), THREADS>>>(*x, m);
  bound_fine<<<blocks_of(fine), THREADS>>>(*x);
  bound_coarse<<<blocks_of(coarse), THREADS>>>(*x);
  GPU_LAUNCHED("writing the column bounds");
  return 0;
}

int build(columns *x, const struct mask *m, gpu_memory &memory, int64_t *bytes) {
  gpu_memory building;
  struct mask device;
  int64_t passing = 0;
  if (mask_to_device(&device, m, building, &passing) || build_columns(x, device, memory, bytes))
    return -1;
  GPU_TRY(cudaDeviceSynchronize()); // `building` ends here
  return 0;
}

// ---- blockmap

struct by_columns {
  columns x;
  __device__ tile_class operator()(int head, int q_begin, int q_end, int k_begin, int k_end) const {
    return columns_class(&x, head, q_begin, q_end, k_begin, k_end);
  }
};

// Of a block-sparse mask: the bits of the blocks that the tile meets.
struct by_grid {
  struct mask m;
  __device__ tile_class operator()(int head, int q_begin, int q_end, int k_begin, int k_end) const {
    const int32_t *rows = m.row_begin + (int64_t)head * (m.blocks_q + 1);
    const int32_t *cols = m.col_begin + (int64_t)head * (m.blocks_k + 1);
    const int32_t c0 = mask_find(cols, m.blocks_k, k_begin), c1 = mask_find(cols, m.blocks_k, k_end - 1);
    bool any = false, all = true;
    for (int32_t r = mask_find(rows, m.blocks_q, q_begin); r < m.blocks_q && rows[r] < q_end; r++)
      for (int32_t w = c0 / 32; w <= c1 / 32; w++) {
        const uint32_t met = (uint32_t)rep_word(max(c0 - w * 32, 0), min(c1 + 1 - w * 32, 32));
        const uint32_t kept = m.kept[((int64_t)head * m.blocks_q + r) * m.kept_words + w] & met;
        any |= kept != 0;
        all &= kept == met;
      }
    return !any ? TILE_EMPTY : all ? TILE_FULL : TILE_PARTIAL;
  }
};

// One CUDA block a block row; lanes are block columns.
template<class Classify>
__global__ void classify_blocks(Classify classify, int32_t seqlen, int32_t block, int32_t blocks,
                                uint32_t *seen, uint32_t *full) {
  const int lane = threadIdx.x % 32, words = (blocks + 31) / 32;
  const int head = blockIdx.x / blocks, q = blockIdx.x % blocks * block;
  for (int w = threadIdx.x / 32; w < words; w += THREADS / 32) {
    const int c = w * 32 + lane;
    const tile_class found = c < blocks ? classify(head, q, min(q + block, seqlen), c * block,
                                                   min((c + 1) * block, seqlen))
                                        : TILE_EMPTY;
    const uint32_t some = __ballot_sync(~0u, found != TILE_EMPTY),
                   all = __ballot_sync(~0u, found == TILE_FULL);
    if (lane == 0) {
      seen[(int64_t)blockIdx.x * words + w] = some;
      full[(int64_t)blockIdx.x * words + w] = all;
    }
  }
}

int build(blockmap *x, const struct mask *m, gpu_memory &memory, int64_t *bytes) {
  gpu_memory building;
  uint32_t *seen, *full;
  int64_t passing = 0;
  blockmap_shape(x, m, BLOCKMAP_BLOCK);
  const int64_t rows = (int64_t)x->heads * x->blocks, words = rows * ((x->blocks + 31) / 32);
  if (mask_to_device(&x->mask, m, memory, bytes) || building.get(&seen, words, &passing) ||
      building.get(&full, words, &passing))
    return -1;
  if (m->heads) {
    classify_blocks<by_grid><<<(unsigned)rows, THREADS>>>(by_grid{x->mask}, m->seqlen, x->block,
                                                          x->blocks, seen, full);
  } else {
    by_columns by = {};
    if (build_columns(&by.x, x->mask, building, &passing))
      return -1;
    classify_blocks<by_columns><<<(unsigned)rows, THREADS>>>(by, m->seqlen, x->block, x->blocks, seen,
                                                             full);
  }
  GPU_LAUNCHED("classifying the blocks of the mask");
  return prep_lists(&x->q2k, &x->k2q, block_bits{seen, full, x->heads, x->blocks, x->blocks}, memory,
                    bytes);
}

// ---- lists of a block-sparse mask's own blocks

int lists_of_grid(block_lists *q2k, block_lists *k2q, const struct mask *m, gpu_memory &memory,
                  int64_t *bytes) {
  gpu_memory building;
  const uint32_t *kept = m->kept;
  int64_t passing = 0;
  return building.move(&kept, (int64_t)m->heads * m->blocks_q * m->kept_words, &passing)
             ? -1
             : prep_lists(q2k, k2q, block_bits{kept, kept, m->heads, m->blocks_q, m->blocks_k}, memory,
                          bytes);
}

int build(blocklist *x, const struct mask *m, gpu_memory &memory, int64_t *bytes) {
  blocklist_shape(x, m);
  return lists_of_grid(&x->q2k, &x->k2q, m, memory, bytes);
}

int build(varblock *x, const struct mask *m, gpu_memory &memory, int64_t *bytes) {
  varblock_shape(x, m);
  return memory.copy(&x->row_begin, m->row_begin, (int64_t)m->heads * (m->blocks_q + 1), bytes) ||
                 memory.copy(&x->col_begin, m->col_begin, (int64_t)m->heads * (m->blocks_k + 1), bytes)
             ? -1
             : lists_of_grid(&x->q2k, &x->k2q, m, memory, bytes);
}

} // namespace

int prep_rep(void *rep, const char *name, const struct mask *m, gpu_memory &memory, int64_t *bytes) {
#define BUILT_HERE(X) \
  if (!strcmp(name, #X)) \
    return build((X *)rep, m, memory, bytes);
  BUILT_HERE(dense)
  BUILT_HERE(columns)
  BUILT_HERE(blockmap)
  BUILT_HERE(blocklist)
  BUILT_HERE(varblock)
#undef BUILT_HERE
  return 1;
}
