// reps_cuda_check.cu -- every device-side function of every representation, called from a kernel, so
// that CI sees the headers compile for a device. Compiles by nvcc -c and, as it stands, by NVRTC.
#include "band.h"
#include "blocklist.h"
#include "blockmap.h"
#include "columns.h"
#include "dense.h"
#include "spans.h"
#include "varblock.h"

#define CHECK(X) \
  extern "C" __global__ void check_##X(const struct X x, const struct tile_view view, \
                                       int32_t head, int32_t from, struct tile_run *runs, \
                                       uint64_t *bits, int32_t *out) { \
    runs[0] = X##_next_keys(&x, head, &view, from); \
    runs[1] = X##_next_queries(&x, head, &view, from); \
    X##_row_bits(&x, head, view.q_begin, view.k_begin, view.k_end - view.k_begin, bits); \
    out[0] = X##_class(&x, head, view.q_begin, view.q_end, view.k_begin, view.k_end); \
    out[1] = X##_allows(&x, head, view.q_begin, view.k_begin); \
  }

CHECK(dense)
CHECK(band)
CHECK(columns)
CHECK(blockmap)
CHECK(blocklist)
CHECK(varblock)
CHECK(spans)
