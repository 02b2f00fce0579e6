// store.h -- rows in a CSV file: one writer (locked), any number of readers, torn lines repaired.
#ifndef LONGCA_STORE_H
#define LONGCA_STORE_H

#include <stddef.h>

#include "row.h"

enum { STORE_PATH = 1024 };

struct store {
  int fd;
  char path[STORE_PATH];
};

// Every row of a file, found by the names in its header: unknown columns are ignored, missing ones
// are empty or NaN, a line cut off at the end (no newline) is left out. *rows is for free().
// 0, or -1 with a sentence in err that names the file and line. A missing file is an error.
int store_read(const char *path, struct row **rows, size_t *n, char *err, size_t err_size);

// Opens for appending and locks; creates the file with its header and the folders above it.
// A last line without newline is cut off. Refuses a file whose header has other columns.
// 0, or -1 with a sentence in err: another run holds the lock, the disk is full, ...
int store_open(struct store *s, const char *path, char *err, size_t err_size);
// Appends one line and flushes it to the disk. When it does not fit, the file is left as it was,
// -1 is returned with a sentence in err, and a later try may succeed.
int store_append(struct store *s, const struct row *row, char *err, size_t err_size);
// Replaces all rows: written to a new file that then takes the old one's place, so that a stop at any
// moment leaves one or the other. The lock moves along. 0, or -1 with a sentence in err.
int store_replace(struct store *s, const struct row *rows, size_t n, char *err, size_t err_size);
// Also for a forked child: drops its copy of the file, so that only the parent holds the lock.
void store_close(struct store *s);

#endif
