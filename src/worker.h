// worker.h -- a child process that measures points, so that a fault, a hang or a lack of memory costs
// one row. The parent never touches CUDA or OpenMP, neither of which survives a fork.
#ifndef LONGCA_WORKER_H
#define LONGCA_WORKER_H

#include <sys/types.h>

#include "point.h"

// Measures p into row as measure_point() does; tests pass functions that crash, hang, ...
typedef int (*worker_measure)(const struct point *p, struct row *row);

struct worker {
  pid_t pid; // 0: none is running
  int fd;    // socket to it
  int log;   // its stdout and stderr
};

enum worker_end {
  WORKER_ROW,     // the row stands; status and reason tell what it was, a worker's death included
  WORKER_HARNESS, // the harness is wrong (row->reason): stop
  WORKER_STOPPED  // *stop was set meanwhile; there is no row
};

// Runs one point in w, started if need be, for at most p->limit_s seconds. The worker is kept for the
// next point only for place DEVICE or a job, and after a row that is ok, unsupported or oom: a host
// point's peak memory is that of a fresh process, but a job's ranks have processes of their own.
// `close_fd` (or -1) is closed in the child; `log_path` takes what the worker printed, if it printed
// anything and failed. *stop (NULL: never) set by a signal ends the wait.
enum worker_end worker_run(struct worker *w, worker_measure measure, const struct point *p,
                           struct row *row, int close_fd, const char *log_path,
                           const volatile int *stop);
// Of a worker that is not measuring: it takes leave of its jobs.
void worker_end(struct worker *w);

#endif
