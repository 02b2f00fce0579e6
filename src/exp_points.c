// exp_points.c -- an experiment's settings as points: every combination of the axes, each kernel
// series in seeded random order so that drift favours nobody, draw by draw.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../cp/cp.h"
#include "exp.h"

static const char *const setting_names[] = {
#define EXP_NAME(name, value, help) #name,
    EXP_SETTINGS(EXP_NAME)};

static int bad_value(enum exp_setting key, const char *value, const char *want, char *err,
                     size_t size) {
  snprintf(err, size, "%s = '%s': %s", setting_names[key], value, want);
  return -1;
}

static int set_int(int32_t *to, enum exp_setting key, const char *value, int32_t least, char *err,
                   size_t size) {
  double x;
  char want[64];
  if (!filter_number(value, &x) || x != (int32_t)x || x < least) {
    snprintf(want, sizeof want, "expected a whole number of at least %d", least);
    return bad_value(key, value, want, err, size);
  }
  *to = (int32_t)x;
  return 0;
}

static int set_double(double *to, enum exp_setting key, const char *value, char *err, size_t size) {
  return filter_number(value, to) && *to > 0
             ? 0
             : bad_value(key, value, "expected a number above 0", err, size);
}

static bool kernel_known(const char *name) {
  return attn_find(name, ATTN_HOST) || attn_find(name, ATTN_DEVICE);
}

static int unknown_kernel(const char *name, char *err, size_t size) {
  snprintf(err, size, "unknown kernel '%s'; the kernels are", name);
  for (int i = 0; attn_kernels[i]; i++) {
    char word[POINT_NAME];
    snprintf(word, sizeof word, " %s", attn_kernels[i]->name);
    if (!strstr(err, word) && strlen(err) + strlen(word) < size)
      strcat(err, word);
  }
  return -1;
}

// One value of one setting into a point. Draw counts are handled by the caller.
static int set_value(struct point *p, enum exp_setting key, const char *v, char *err, size_t size) {
  int32_t number = 0;
  switch (key) {
  case EXP_mask: {
    const int kind = mask_parse(v);
    if (kind < 0) {
      snprintf(err, size, "unknown mask '%s'; the masks are %s", v, mask_names());
      return -1;
    }
    p->mask = (enum mask_kind)kind;
    return 0;
  }
  case EXP_kernel:
    snprintf(p->kernel, sizeof p->kernel, "%s", v);
    return kernel_known(v) ? 0 : unknown_kernel(v, err, size);
  case EXP_pass:
    p->pass = strcmp(v, "fwd") != 0 ? ATTN_BWD : ATTN_FWD;
    p->deterministic = strcmp(v, "bwd_det") == 0;
    return !strcmp(v, point_pass_text(p))
               ? 0
               : bad_value(key, v, "expected fwd, bwd or bwd_det", err, size);
  case EXP_dtype:
    p->dtype = strcmp(v, "fp32") == 0 ? ATTN_FP32 : ATTN_BF16;
    return !strcmp(v, point_dtype_name(p->dtype))
               ? 0
               : bad_value(key, v, "expected bf16 or fp32", err, size);
  case EXP_place:
    p->place = strcmp(v, "device") == 0 ? ATTN_DEVICE : ATTN_HOST;
    return !strcmp(v, point_place_name(p->place))
               ? 0
               : bad_value(key, v, "expected host or device", err, size);
  case EXP_heads:
    return point_parse_heads(v, &p->heads_q, &p->heads_kv)
               ? 0
               : bad_value(key, v, "expected query heads:KV heads such as 64:8, a whole multiple",
                           err, size);
  case EXP_histogram:
    snprintf(p->histogram, sizeof p->histogram, "%s", strcmp(v, "by-length") != 0 ? v : "");
    return 0;
  case EXP_dim:
    return set_int(&p->dim, key, v, 1, err, size);
  case EXP_cp: {
    struct cp_wish wish;
    snprintf(p->cp, sizeof p->cp, "%s", v);
    if (!strcmp(v, "none") || cp_schedule_find(v, &wish))
      return 0;
    snprintf(err, size, "unknown schedule '%s'; the schedules are none, %s", v,
             cp_schedule_names());
    return -1;
  }
  case EXP_transport: // one that this build lacks is a refusal of the point, not of the experiment
    snprintf(p->transport, sizeof p->transport, "%s", v);
    return 0;
  case EXP_ranks:
    return set_int(&p->ranks, key, v, 1, err, size);
  case EXP_seqlen: {
    char length[EXP_VALUE];
    const size_t end = strlen(v), unit = strlen("/rank");
    const bool each = end > unit && !strcmp(v + end - unit, "/rank");
    snprintf(length, sizeof length, "%.*s", (int)(each ? end - unit : end), v);
    if (set_int(&p->seqlen, key, length, 1, err, size))
      return -1;
    if (each && p->seqlen > INT32_MAX / p->ranks)
      return bad_value(key, v, "expected less than 2^31 tokens in all", err, size);
    p->seqlen *= each ? p->ranks : 1;
    return 0;
  }
  case EXP_window:
    return set_int(&p->window, key, v, 0, err, size);
  case EXP_block:
    return set_int(&p->block, key, v, 1, err, size);
  case EXP_ratio:
    if (set_double(&p->ratio, key, v, err, size))
      return -1;
    return p->ratio <= 1 ? 0 : bad_value(key, v, "expected at most 1", err, size);
  case EXP_seed:
    if (set_int(&number, key, v, 0, err, size))
      return -1;
    p->seed = (uint64_t)number;
    return 0;
  case EXP_warmup:
    return set_int(&p->warmup, key, v, 0, err, size);
  case EXP_samples_min:
    return set_int(&p->samples_min, key, v, 1, err, size);
  case EXP_samples_max:
    return set_int(&p->samples_max, key, v, 1, err, size);
  case EXP_seconds:
    return set_double(&p->seconds, key, v, err, size);
  case EXP_limit_s:
    return set_double(&p->limit_s, key, v, err, size);
  default:
    return 0;
  }
}

static void leave_out(const struct experiment *e, struct point *p) {
  struct row row;
  point_to_row(p, &row);
  for (int i = 0; i < e->excepts && !*p->left_out; i++)
    if (filter_match(&e->except[i].when, &row))
      snprintf(p->left_out, sizeof p->left_out, "%s", e->except[i].reason);
}

// SplitMix64, and a shuffle by it: the order is part of the experiment, so it is seeded.
static uint64_t next_random(uint64_t *state) {
  uint64_t z = *state += 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

static void shuffle(struct point *points, size_t n, uint64_t *state) {
  for (size_t i = n; i > 1; i--) {
    const size_t j = next_random(state) % i;
    const struct point t = points[i - 1];
    points[i - 1] = points[j];
    points[j] = t;
  }
}

// Axes from the slowest to the fastest: those that decide the tensors first, then the mask, then the
// pass; a worker keeps what does not change. The kernel last, so that those compared are neighbours.
// Ranks come before lengths, which may be given by the rank.
static const enum exp_setting axes[] = {EXP_place,     EXP_dtype,     EXP_dim,    EXP_seed,
                                        EXP_heads,     EXP_transport, EXP_ranks,  EXP_seqlen,
                                        EXP_histogram, EXP_mask,      EXP_window, EXP_block,
                                        EXP_ratio,     EXP_pass,      EXP_cp,     EXP_kernel};
enum { AXES = sizeof axes / sizeof *axes };

struct axis {
  char text[EXP_VALUE], *values[EXP_VALUE / 2];
  int n, at;
};

static int split_axes(const struct experiment *e, struct axis *axis, char *err, size_t size) {
  for (int a = 0; a < AXES; a++) {
    char *rest = axis[a].text;
    snprintf(rest, EXP_VALUE, "%s", e->value[axes[a]]);
    axis[a].n = axis[a].at = 0;
    for (char *v; (v = strsep(&rest, " \t"));)
      if (*v)
        axis[a].values[axis[a].n++] = v;
    if (!axis[a].n) {
      snprintf(err, size, "experiment '%s' does not say which %s", e->name, setting_names[axes[a]]);
      return -1;
    }
  }
  return 0;
}

// Advances all axes but the kernel's; false when all combinations were seen.
static bool next_series(struct axis *axis) {
  for (int a = AXES - 2; a >= 0; a--) {
    if (++axis[a].at < axis[a].n)
      return true;
    axis[a].at = 0;
  }
  return false;
}

struct list {
  struct point *points;
  size_t n, capacity;
};

static struct point *grow(struct list *l) {
  if (l->n == l->capacity) {
    const size_t capacity = l->capacity ? 2 * l->capacity : 64;
    struct point *points = realloc(l->points, capacity * sizeof *points);
    if (!points)
      return NULL;
    l->points = points;
    l->capacity = capacity;
  }
  memset(&l->points[l->n], 0, sizeof *l->points);
  return &l->points[l->n++];
}

// All points of one draw.
static int expand(const struct experiment *e, int32_t draw, const int32_t draws[2],
                  struct axis *axis, struct list *out, char *err, size_t size) {
  static const enum exp_setting timing[] = {EXP_warmup, EXP_samples_min, EXP_samples_max,
                                            EXP_seconds, EXP_limit_s};
  uint64_t state = 0x6c6f6e676361u + (uint64_t)draw;
  do {
    const size_t first = out->n;
    for (int k = 0; k < axis[AXES - 1].n; k++) {
      axis[AXES - 1].at = k;
      struct point *p = grow(out);
      if (!p) {
        snprintf(err, size, "out of memory");
        return -1;
      }
      for (int a = 0; a < AXES; a++)
        if (set_value(p, axes[a], axis[a].values[axis[a].at], err, size))
          return -1;
      for (size_t t = 0; t < sizeof timing / sizeof *timing; t++)
        if (set_value(p, timing[t], e->value[timing[t]], err, size))
          return -1;
      snprintf(p->exp, sizeof p->exp, "%s", e->name);
      snprintf(p->profile, sizeof p->profile, "%s", e->profile);
      p->draw = draw;
      if (draw >= draws[mask_has_docs(p->mask)]) {
        out->n--;
        continue;
      }
      point_normalise(p);
      leave_out(e, p);
    }
    shuffle(out->points + first, out->n - first, &state);
  } while (next_series(axis));
  return 0;
}

int exp_points(const struct experiment *e, struct point **points, size_t *n, char *err,
               size_t err_size) {
  *points = NULL;
  *n = 0;
  char fault[1024] = "";
  int32_t draws[2];
  struct axis *axis = malloc(AXES * sizeof *axis);
  struct list out = {0};
  int status = !axis || split_axes(e, axis, fault, sizeof fault) ||
               set_int(&draws[0], EXP_draws, e->value[EXP_draws], 0, fault, sizeof fault) ||
               set_int(&draws[1], EXP_draws_docs, e->value[EXP_draws_docs], 0, fault, sizeof fault);
  for (int32_t draw = 0; !status && (draw < draws[0] || draw < draws[1]); draw++)
    status = expand(e, draw, draws, axis, &out, fault, sizeof fault);
  free(axis);
  if (status) {
    free(out.points);
    snprintf(err, err_size, "experiment '%s', profile '%s': %s", e->name, e->profile,
             *fault ? fault : "out of memory");
    return -1;
  }
  *points = out.points;
  *n = out.n;
  return 0;
}
