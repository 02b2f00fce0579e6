// tensor_map.h -- what an emulated CUtensorMap holds (runtime.cpp writes it, async.cpp reads it).
#ifndef LONGCA_EMU_TENSOR_MAP_H
#define LONGCA_EMU_TENSOR_MAP_H

#include <stdint.h>

namespace emu {

struct tensor_map {
  const void *base;
  uint64_t dim[4], stride[3]; // elements (1 beyond the rank); bytes, of dimensions 1 to 3
  uint32_t box[4], element_bytes, rank;
  bool swizzled; // by 128 bytes
};
static_assert(sizeof(tensor_map) <= 128, "a CUtensorMap has 128 bytes");

} // namespace emu
#endif
