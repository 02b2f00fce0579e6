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

const char *buffer_make(struct buffer *b, const struct place *place, enum attn_dtype dtype,
                        int64_t n, char reason[ROW_REASON]) {
  *b = (struct buffer){.host = tensor_alloc(dtype, n), .n = n, .dtype = dtype};
  if (!b->host) {
    snprintf(reason, ROW_REASON, "out of host memory: %zu bytes for a tensor", buffer_bytes(b));
    return "oom";
  }
  b->placed = place->shares_host ? b->host : place->alloc(buffer_bytes(b));
  if (!b->placed || (!place->shares_host && place->upload(b->placed, b->host, buffer_bytes(b))))
    return fail_place(place, reason);
  return NULL;
}

void buffer_release(struct buffer *b, const struct place *place) {
  if (b->placed != b->host)
    place->release(b->placed);
  free(b->host);
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
  const struct mask_recipe recipe = {.kind = p->mask,
                                     .seqlen = p->seqlen,
                                     .histogram = *p->histogram ? p->histogram : NULL,
                                     .heads_kv = p->heads_kv,
                                     .window = p->window,
                                     .block = p->block,
                                     .ratio = p->ratio};
  if (mask_draw_nth(&kept, p->seed, p->draw, &recipe, reason, ROW_REASON))
    return "unsupported";
  memcpy(kept_key, key, sizeof key);
  return NULL;
}

static struct buffer kept_tensors[INPUTS];

size_t inputs_held(void) {
  size_t bytes = 0;
  for (int i = 0; i < INPUTS; i++)
    bytes += buffer_bytes(&kept_tensors[i]);
  return bytes;
}

const char *inputs_tensors(const struct point *p, const struct place *place,
                           struct buffer tensor[INPUTS], char reason[ROW_REASON]) {
  static char kept_key[POINT_KEY];
  char key[POINT_KEY];
  snprintf(key, sizeof key, "%d %d %d %d %d %d %llu %d", p->place, p->dtype, p->heads_q,
           p->heads_kv, p->dim, p->seqlen, (unsigned long long)p->seed, p->draw);
  if (strcmp(key, kept_key) != 0)
    for (int i = 0; i < INPUTS; i++)
      buffer_release(&kept_tensors[i], place);
  memcpy(kept_key, key, sizeof key);
  const int64_t rows[INPUTS] = {p->heads_q, p->heads_kv, p->heads_kv, p->heads_q};
  for (int i = 0; i < (p->pass == ATTN_BWD ? INPUTS : INPUT_D_O); i++) {
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
