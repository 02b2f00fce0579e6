// inputs.c -- draws masks and fills tensors, and keeps the last of each.
#include "inputs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mask_draw.h"
#include "tensor.h"

size_t buffer_bytes(const struct buffer *b) { return (size_t)b->n * tensor_elem_bytes(b->dtype); }

static const char *fail_place(const struct place *place, char reason[ROW_REASON]) {
  snprintf(reason, ROW_REASON, "%s", place->error());
  return place->error_is_oom() ? "oom" : "crash";
}

// The host's side of device tensors is kept for the next ones: fresh pages for a gigabyte of outputs take
// longer than most kernels. Room for O, LSE, dQ, dK, dV.
enum { SPARES = 5 };
static struct {
  void *host;
  size_t bytes;
} spares[SPARES];

static void *take_host(const struct place *place, enum attn_dtype dtype, int64_t n) {
  for (int i = 0; !place->shares_host && i < SPARES; i++)
    if (spares[i].host && spares[i].bytes == (size_t)n * tensor_elem_bytes(dtype)) {
      void *host = spares[i].host;
      spares[i].host = NULL;
      return host;
    }
  return tensor_alloc(dtype, n);
}

static void give_host(const struct place *place, void *host, size_t bytes) {
  static int next;
  int at = place->shares_host ? -1 : next++ % SPARES;
  for (int i = 0; at >= 0 && i < SPARES; i++)
    if (!spares[i].host)
      at = i;
  if (at >= 0 && host) {
    free(spares[at].host);
    spares[at].host = host;
    spares[at].bytes = bytes;
  } else {
    free(host);
  }
}

const char *buffer_make(struct buffer *b, const struct place *place, enum attn_dtype dtype,
                        int64_t n, char reason[ROW_REASON]) {
  *b = (struct buffer){.host = take_host(place, dtype, n), .n = n, .dtype = dtype};
  if (!b->host) {
    snprintf(reason, ROW_REASON, "out of host memory: %zu bytes for a tensor", buffer_bytes(b));
    return "oom";
  }
  b->placed = place->shares_host ? b->host : place->alloc(buffer_bytes(b));
  if (!b->placed || (!place->shares_host && place->poison(b->placed, buffer_bytes(b))))
    return fail_place(place, reason);
  return NULL;
}

void buffer_release(struct buffer *b, const struct place *place) {
  if (b->placed != b->host)
    place->release(b->placed);
  give_host(place, b->host, buffer_bytes(b));
  *b = (struct buffer){0};
}

const char *inputs_mask(const struct point *p, const struct mask **mask, char reason[ROW_REASON]) {
  static struct mask kept;
  static char kept_key[POINT_KEY];
  struct row row;
  char key[POINT_KEY];
  point_to_row(p, &row);
  row.kernel[0] = row.pass[0] = 0;
  point_key(&row, key);
  *mask = &kept;
  if (!strcmp(key, kept_key))
    return NULL;
  if (*kept_key)
    mask_free(&kept);
  *kept_key = 0;
  const struct mask_recipe recipe = point_recipe(p);
  if (mask_draw_nth(&kept, p->seed, p->draw, &recipe, reason, ROW_REASON))
    return "unsupported";
  memcpy(kept_key, key, sizeof key);
  return NULL;
}

static struct buffer kept_tensors[INPUTS];
static char kept_key[POINT_KEY];

static int inputs_of(const struct point *p) { return p->pass == ATTN_BWD ? INPUTS : INPUT_D_O; }

static const char *tensors_key(const struct point *p, char key[POINT_KEY]) {
  snprintf(key, POINT_KEY, "%d %d %d %d %d %d %llu %d", p->place, p->dtype, p->heads_q, p->heads_kv,
           p->dim, p->seqlen, (unsigned long long)p->seed, p->draw);
  return key;
}

size_t inputs_held(const struct point *p) {
  char key[POINT_KEY];
  const bool same = !strcmp(tensors_key(p, key), kept_key);
  size_t bytes = 0;
  for (int i = 0; i < (same ? inputs_of(p) : INPUTS); i++)
    bytes += buffer_bytes(&kept_tensors[i]);
  return bytes;
}

const char *inputs_tensors(const struct point *p, const struct place *place,
                           struct buffer tensor[INPUTS], char reason[ROW_REASON]) {
  char key[POINT_KEY];
  if (strcmp(tensors_key(p, key), kept_key) != 0)
    for (int i = 0; i < INPUTS; i++)
      buffer_release(&kept_tensors[i], place);
  memcpy(kept_key, key, sizeof key);
  const int64_t rows[INPUTS] = {p->heads_q, p->heads_kv, p->heads_kv, p->heads_q};
  for (int i = 0; i < inputs_of(p); i++) {
    struct buffer *b = &kept_tensors[i];
    if (!b->placed) {
      const char *status = buffer_make(b, place, p->dtype, rows[i] * p->seqlen * p->dim, reason);
      // One stream a tensor and draw, so that draws differ in their numbers too.
      if (!status)
        tensor_fill_normal(b->host, b->dtype, b->n, p->seed,
                           (uint64_t)p->draw * INPUTS + (uint64_t)i);
      if (!status && !place->shares_host && place->upload(b->placed, b->host, buffer_bytes(b)))
        status = fail_place(place, reason);
      if (status) {
        buffer_release(b, place);
        return status;
      }
    }
    tensor[i] = *b;
  }
  return NULL;
}
