// ring_p2p.c -- Ring P2P: queries stay, keys and values go once round all ranks while they are being
// used (study 6.4). Zigzag by document, so every step is equal work for every rank; no limit by heads.
// The ring itself is ring.c with one window.
#include "cp.h"

static const char *arrange(const struct attn_problem *p, int ranks, const struct cp_wish *wish,
                           struct cp_grid *grid) {
  grid->context = ranks;
  return NULL;
}

extern const struct cp_schedule cp_ring_p2p;
const struct cp_schedule cp_ring_p2p = {.name = "ring_p2p",
                                        .summary =
                                            "keys and values go round all ranks, under the kernels",
                                        .context_first = true,
                                        .arrange = arrange,
                                        .plan = cp_ring_plan,
                                        .forward = cp_ring_forward,
                                        .backward = cp_ring_backward};
