// cmd_list.h -- what the parts of `longca list` share.
#ifndef LONGCA_CMD_LIST_H
#define LONGCA_CMD_LIST_H

#include "../kernels/attn.h"
#include "table.h"

struct list_request {
  enum table_format format;
  int heads_q, heads_kv; // that support is asked for
};

// A section's title; none in CSV.
void list_title(const struct list_request *r, const char *title);
const char *list_place(enum attn_place place); // "host" "device"
// Table 1 and, in the block-sparse rows, table 2: mask x kernel. 0, or 1 after a message.
int list_support(const struct list_request *r);

#endif
