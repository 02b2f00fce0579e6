// env.h -- this machine: its name, and everything about it that a measurement may depend on.
#ifndef LONGCA_ENV_H
#define LONGCA_ENV_H

#include <stdio.h>

#include "../kernels/attn.h"
#include "device.h"

// Short name: $LONGCA_MACHINE, or the GPU ("h200") for the device, or processor and cores
// ("amd-epyc-2c") for the host. Letters, digits and - only. Returns buf.
const char *env_machine(enum attn_place place, char *buf, size_t size);
// The processor as its maker calls it; its cores, not hardware threads.
const char *env_cpu_name(char *buf, size_t size);
int env_cores(void);
// GPUs that this build can use, and what the first is (NULL without one). Asked in a child, so that the
// caller never initialises CUDA.
int env_gpu_count(void);
const struct device_info *env_gpu(void);
// Commit of the sources, with "-dirty" when tracked files differ; $LONGCA_COMMIT for a program that was
// built elsewhere; "unknown" outside git.
const char *env_commit(void);
// All of it as JSON, for free(); NULL when memory runs out.
char *env_json(enum attn_place place);
// What would disturb a measurement (governor, load, other users of the GPU, ...), one sentence a line
// into `out`. Returns how many.
int env_check(FILE *out);

#endif
