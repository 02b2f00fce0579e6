// row.h -- one measured point: the row that every figure, table and claim is drawn from.
//
// One line of the macro is one column, in file order: T text, N number. Numbers that do not apply or
// were not measured are NaN, written `nan`. Only a row with status "ok" carries results.
#ifndef LONGCA_ROW_H
#define LONGCA_ROW_H

#include <stdbool.h>
#include <stddef.h>

// What became of a point, the column `status`. Names in row_status_names, in this order.
enum row_status {
  ROW_OK,
  ROW_OOM,
  ROW_UNSUPPORTED,
  ROW_WRONG,
  ROW_TIMEOUT,
  ROW_CRASH,
  ROW_STATUSES
};
extern const char *const row_status_names[ROW_STATUSES];
// Index of a name, or -1.
int row_status_find(const char *name);

// Schema 2: comm_us is the least that a rank waited; before, it was the most, and skew_us was part of it.
enum { ROW_SCHEMA = 2, ROW_TEXT = 96, ROW_REASON = 256 };

// clang-format off
#define ROW_COLUMNS(T, N)                                                                              \
  N(schema) T(exp) T(profile) T(machine) T(commit) T(utc)                                              \
  /* what was run: the independent variables */                                                        \
  T(mask) T(kernel) T(rep) T(engine) T(pass) T(dtype)                                                  \
  N(batch) N(heads_q) N(heads_kv) N(dim) N(seqlen)                                                     \
  N(docs) N(window) N(prefix) N(block) N(ratio) N(seed) N(draw) T(histogram)                           \
  T(cp) T(transport) N(ranks)                                                                          \
  /* what became of it (row_status_names), and why */                                      \
  T(status) T(reason)                                                                                  \
  /* time: median, its 95 % interval by exact ranks, quantiles 0.2 and 0.8, of n samples */            \
  N(n) N(time_us) N(time_us_low) N(time_us_high) N(time_us_q20) N(time_us_q80) N(time_us_p99)          \
  /* work: true visible pairs a head; those in the engine's tiles, visible or not; FLOP from the visible   \
     (study 3.1), rate at the median time */                                                           \
  N(area) N(tile_area) N(flop) N(flop_nominal) N(tflop_s) N(peak_pct)                                               \
  /* preparation (representation, plan, JIT; of that the JIT) and memory, apart from kernel time */    \
  N(prep_us) N(compile_us) N(prep_bytes) N(peak_mem_bytes) N(account_bytes)                            \
  N(input_bytes) N(output_bytes) N(workspace_bytes)                                                    \
  /* of a pass of context parallelism (measure_cp.c): most that a rank sends; exposed transfers; waits  \
     of ranks that are ahead for others; how much of the transfers was hidden */                       \
  N(comm_bytes) N(comm_us) N(skew_us) N(overlap_pct)                                                   \
  /* cold: L2 flushed before each sample; exposed: samples that hold launch cost */                    \
  N(sm_mhz_median) N(sm_mhz_min) N(power_w) N(throttled) N(cold) N(exposed)                            \
  /* the check on the same inputs, before the timing */                                                \
  N(err_max) N(err_cos) N(wrong) T(log)
// clang-format on

struct row {
#define ROW_FIELD_T(name) char name[ROW_REASON];
#define ROW_FIELD_N(name) double name;
  ROW_COLUMNS(ROW_FIELD_T, ROW_FIELD_N)
#undef ROW_FIELD_T
#undef ROW_FIELD_N
};

struct row_column {
  const char *name;
  bool text;
  size_t offset;
};
extern const struct row_column row_columns[]; // ends with name NULL

// All text empty, all numbers NaN, schema set.
void row_clear(struct row *row);
// Whether an emulated GPU made it (kernels/emu): a proof that things work, and no measurement.
bool row_is_emulated(const struct row *row);
// Value of a column as text, into buf (numbers: shortest that reads back; NaN: "nan").
const char *row_text(const struct row *row, const struct row_column *column, char *buf,
                     size_t size);
const struct row_column *row_find_column(const char *name);
double row_number(const struct row *row, const char *column); // NaN when the column is not a number

double row_rounded(double x, int digits); // to so many significant digits
void row_status(struct row *row, const char *status, const char *reason);
// n, and the time columns: median with its interval, and quantiles, of time_us [n].
void row_times(struct row *row, const double *time_us, int n);

#endif
