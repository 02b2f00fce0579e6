// registry.c -- every schedule and every transport of this build, once.
#include <stdio.h>
#include <string.h>

#include "cp.h"

// clang-format off
#define SCHEDULES(S)                                                                                   \
  S(cp_ulysses) S(cp_ring_p2p) S(cp_ring_allgather) S(cp_usp) S(cp_usp_context_first) S(cp_loongtrain) \
  S(cp_loongtrain_context_first)
// clang-format on
#ifdef LONGCA_MPI
#define TRANSPORTS_MPI(T) T(cp_mpi)
#else
#define TRANSPORTS_MPI(T)
#endif
#ifdef LONGCA_NCCL
#define TRANSPORTS_NCCL(T) T(cp_nccl)
#else
#define TRANSPORTS_NCCL(T)
#endif
#ifdef LONGCA_CUDA
#define TRANSPORTS_CUDA(T) T(cp_loopback_gpu)
#else
#define TRANSPORTS_CUDA(T)
#endif
#define TRANSPORTS(T) T(cp_loopback) TRANSPORTS_MPI(T) TRANSPORTS_CUDA(T) TRANSPORTS_NCCL(T)

#define DECLARE_SCHEDULE(name) extern const struct cp_schedule name;
#define DECLARE_TRANSPORT(name) extern const struct cp_transport name;
#define ENTRY(name) &name,
SCHEDULES(DECLARE_SCHEDULE)
TRANSPORTS(DECLARE_TRANSPORT)
const struct cp_schedule *const cp_schedules[] = {SCHEDULES(ENTRY) NULL};
const struct cp_transport *const cp_transports[] = {TRANSPORTS(ENTRY) NULL};

const char *const cp_cut_names[CP_CUTS] = {"auto",      "contiguous", "whole",
                                           "documents", "slices",     "chunks"};

// "4x2", "2x4x2", "2pieces", "3blocks", "exchange" or the name of a cut; `n` characters of text.
static bool parse_wish(const char *text, size_t n, struct cp_wish *wish) {
  char word[64];
  int end = 0, count;
  snprintf(word, sizeof word, "%.*s", (int)(n < sizeof word ? n : 0), text);
  for (int i = 0; i < CP_CUTS; i++)
    if (!strcmp(word, cp_cut_names[i])) {
      wish->cut = (enum cp_cut)i;
      return true;
    }
  if (!strcmp(word, "exchange"))
    return wish->exchange = true;
  if (sscanf(word, "%dpieces%n", &count, &end) == 1 && end) {
    wish->pieces = count;
    return !word[end] && count >= 1;
  }
  if (sscanf(word, "%dblocks%n", &count, &end) == 1 && end) {
    wish->blocks = count;
    return !word[end] && count >= 1 && count <= CP_BLOCKS_MAX;
  }
  const bool three =
      sscanf(word, "%dx%dx%d%n", &wish->heads, &wish->context, &wish->windows, &end) == 3;
  if (!three && sscanf(word, "%dx%d%n", &wish->heads, &wish->context, &end) != 2)
    return false;
  return !word[end] && wish->heads >= 1 && wish->context >= 1 && (!three || wish->windows >= 1);
}

const struct cp_schedule *cp_schedule_find(const char *text, struct cp_wish *wish) {
  const size_t name = strcspn(text, ":");
  *wish = (struct cp_wish){0};
  for (const char *at = text + name; *at;) {
    const size_t n = strcspn(++at, ":");
    if (!parse_wish(at, n, wish))
      return NULL;
    at += n;
  }
  for (int i = 0; cp_schedules[i]; i++)
    if (strlen(cp_schedules[i]->name) == name && !strncmp(cp_schedules[i]->name, text, name))
      return cp_schedules[i];
  return NULL;
}

const struct cp_transport *cp_transport_find(const char *name) {
  for (int i = 0; cp_transports[i]; i++)
    if (!strcmp(cp_transports[i]->name, name))
      return cp_transports[i];
  return NULL;
}

static void append(char *list, size_t size, const char *name) {
  const size_t at = strlen(list);
  snprintf(list + at, size - at, "%s%s", at ? ", " : "", name);
}

const char *cp_schedule_names(void) {
  static _Thread_local char list[256];
  *list = 0;
  for (int i = 0; cp_schedules[i]; i++)
    append(list, sizeof list, cp_schedules[i]->name);
  return list;
}

const char *cp_transport_names(void) {
  static _Thread_local char list[128];
  *list = 0;
  for (int i = 0; cp_transports[i]; i++)
    append(list, sizeof list, cp_transports[i]->name);
  return list;
}
