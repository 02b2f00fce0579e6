// jit.h -- kernels compiled while the program runs (NVRTC), cached by content: in memory until exit, and
// as files under $XDG_CACHE_HOME/longca (or ~/.cache/longca) from run to run.
//
// The key is a hash of all that the cubin depends on: source, predicate, kernel's name, options, CUDA's
// version.
// A cubin holds one kernel. Compiling needs no GPU, loading no compiler.
#ifndef LONGCA_JIT_H
#define LONGCA_JIT_H

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

struct jit_kernel {
  void *cubin;
  size_t bytes;
  double compile_us; // what compiling took, when it was compiled
  bool from_file;    // and not by this process
  int registers, stack_bytes, spill_bytes;
  int warnings; // lines by which the assembler warns that it made products wait for each other
  const void *function; // once loaded, what cudaLaunchKernel takes
};

// `kernel` names it as C++ does ("ns::kernel<128, rep>"); `predicate` is what `#include "predicate"` of
// the source finds. NULL: attn_error() has the compiler's first error. The result lives until exit.
struct jit_kernel *jit_compile(const char *source, const char *predicate, const char *kernel);
// For cudaLaunchKernel and cudaFuncSetAttribute; NULL with attn_error() set.
const void *jit_function(struct jit_kernel *k);

// For tests: forgets what is in memory, so that the next call looks for the file.
void jit_forget(void);

#ifdef __cplusplus
}
#endif
#endif
