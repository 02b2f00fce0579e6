// nccl_map.c -- memory of other ranks' GPUs among the addresses of this process: CUDA IPC, between processes of one
// host. A handle is of a whole allocation, in which a tensor may begin anywhere.
#include <cuda.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "nccl_job.h"

struct offer {
  char host[64];
  bool given;
  cudaIpcMemHandle_t handle;
  int64_t offset; // of the tensor in its allocation
};

// What is mapped here: a tensor, and its allocation, which is what is given back.
static struct mapped { void *at, *base; } maps[64];

// The driver's function by way of the runtime, so that the program needs no libcuda to link. NULL: not there.
static void *base_of(const void *data) {
  CUresult (*range)(CUdeviceptr *, size_t *, CUdeviceptr) = NULL;
  void *found = NULL;
  enum cudaDriverEntryPointQueryResult how;
#if CUDART_VERSION >= 12050
  if (cudaGetDriverEntryPointByVersion("cuMemGetAddressRange", &found, 12000, cudaEnableDefault,
                                       &how) != cudaSuccess)
#else
  if (cudaGetDriverEntryPoint("cuMemGetAddressRange", &found, cudaEnableDefault, &how) !=
      cudaSuccess)
#endif
    found = NULL;
  memcpy(&range, &found, sizeof range);
  union {
    CUdeviceptr address;
    void *data;
  } base = {0};
  return range && range(&base.address, NULL, (CUdeviceptr)data) == CUDA_SUCCESS ? base.data : NULL;
}

// Hosts are told apart as NCCL does it, so that what plays at several on one host exchanges as they would.
static struct offer offer_of(const void *mine) {
  struct offer o = {0};
  const char *named = getenv("NCCL_HOSTID");
  if (named)
    strncpy(o.host, named, sizeof o.host - 1);
  else
    gethostname(o.host, sizeof o.host - 1);
  const char *base = base_of(mine);
  o.given = base && cudaIpcGetMemHandle(&o.handle, (void *)base) == cudaSuccess;
  o.offset = base ? (const char *)mine - base : 0;
  return o;
}

// Lazily: access from this GPU to that one is made with it, and refused with it where there is none.
static void *open_offer(const struct offer *o) {
  size_t i = 0;
  while (i < sizeof maps / sizeof *maps && maps[i].at)
    i++;
  if (!o->given || i == sizeof maps / sizeof *maps ||
      cudaIpcOpenMemHandle(&maps[i].base, o->handle, cudaIpcMemLazyEnablePeerAccess) != cudaSuccess)
    return NULL;
  return maps[i].at = (char *)maps[i].base + o->offset;
}

void cp_nccl_unmap(struct cp_comm *comm, void *const *theirs, int n) {
  for (int p = 0; p < n; p++)
    for (size_t i = 0; i < sizeof maps / sizeof *maps; i++)
      if (theirs[p] && maps[i].at == theirs[p]) {
        cudaIpcCloseMemHandle(maps[i].base);
        maps[i].at = NULL;
        break;
      }
}

int cp_nccl_map(struct cp_comm *comm, const void *mine, const int *peers, int n, void **theirs) {
  const struct offer my_offer = offer_of(mine);
  struct offer *all = malloc((size_t)comm->size * sizeof *all);
  int *refused = malloc((size_t)comm->size * sizeof *refused), refusal = 0, any = 0;
  if (!all || !refused)
    attn_error_set(true, "out of host memory for %d ranks", comm->size);
  int status = all && refused ? comm->transport->share(comm, &my_offer, all, sizeof my_offer) : -1;
  for (int i = 0; i < n && !status; i++) {
    const struct offer *o = &all[peers[i]];
    theirs[i] = peers[i] == comm->rank            ? (void *)mine
                : !strcmp(o->host, my_offer.host) ? open_offer(o)
                                                  : NULL;
    refusal |= !theirs[i];
  }
  cudaGetLastError(); // a refusal is no error
  status = status || comm->transport->share(comm, &refusal, refused, sizeof refusal);
  for (int r = 0; r < comm->size && !status; r++)
    any |= refused[r];
  if (any && !status)
    cp_nccl_unmap(comm, theirs, n);
  free(all);
  free(refused);
  return status ? -1 : any;
}
