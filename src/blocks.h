// blocks.h -- the block file that a figure is drawn from.
//
// A block file is plain text for gnuplot and for readers: lines "#key value" about the whole, then a
// block "# PANEL SERIES |" for each curve, two blank lines between blocks, rows
//     x  y  low  high  status  ok/draws
// A point without a value has y = nan, which breaks the line there; its status says why. Text on the
// x axis (masks) is numbered from 1 in the order of "#xnames". The figure does no arithmetic.
#ifndef LONGCA_BLOCKS_H
#define LONGCA_BLOCKS_H

#include "select.h"

enum { BLOCKS_KEYS = 4 };

// What is drawn: y over x, a curve a value of `series`, a panel a value of the columns `panel`.
struct blocks {
  const char *series, *x;
  char panel[BLOCKS_KEYS][FILTER_TEXT];
  int n_panel;
  struct quantity y;
};

// Prints it. 0, or 1 with a sentence on stderr when nothing has a value.
int blocks_print(const struct row *rows, size_t n, const struct blocks *what);

#endif
