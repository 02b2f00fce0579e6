// loongtrain.c -- LoongTrain: as USP, with the ring cut into windows (study 6.7). While a window's keys go
// round within it, the keys of the next one are fetched from further away, with a whole window of kernels
// to hide under (ring.c). Both placements; windows by default the largest divisor n of the ring with
// n <= ring / n.
#include "cp.h"

extern const struct cp_schedule cp_loongtrain, cp_loongtrain_context_first;
const struct cp_schedule cp_loongtrain = {
    .name = "loongtrain",
    .summary = "Ulysses between neighbours, a double ring between groups",
    .arrange = cp_arrange_hybrid,
    .plan = cp_heads_plan,
    .forward = cp_heads_forward,
    .backward = cp_heads_backward};
const struct cp_schedule cp_loongtrain_context_first = {
    .name = "loongtrain_context_first",
    .summary = "the same with the double ring between neighbours",
    .context_first = true,
    .arrange = cp_arrange_hybrid,
    .plan = cp_heads_plan,
    .forward = cp_heads_forward,
    .backward = cp_heads_backward};
