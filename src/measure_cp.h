// measure_cp.h -- measures one point of context parallelism.
#ifndef LONGCA_MEASURE_CP_H
#define LONGCA_MEASURE_CP_H

#include "point.h"

// As measure_point(). Transports that live in one process run here, the others as a job.
int measure_cp(const struct point *p, struct row *row);
// All ranks of this process. Of a job's processes that with rank 0 fills the row; the others' has no status.
int measure_cp_here(const struct point *p, struct row *row);
// Whether the point's ranks are processes of their own.
bool measure_cp_is_job(const struct point *p);
// Hands the point to its job,  $LONGCA_MPIRUN -n RANKS longca rank FOLDER  (measure_job.c), which is started
// if it does not run and stays for the points that follow.
int measure_cp_job(const struct point *p, struct row *row);
void measure_cp_end_jobs(void);
// Processes of the job that this one is in; 0: it is in none.
int measure_cp_job_size(void);
// In a process of a job: its GPU is the one of its rank within the host.
void measure_cp_local_gpu(void);

#endif
