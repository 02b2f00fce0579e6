// claims.h -- the claims of the paper (study 8) as relations over rows, and their verdicts.
//
// experiments/claims.tsv says for each claim what would confirm it; this decides it from rows of one
// machine. A claim of several lines holds when every line holds.
#ifndef LONGCA_CLAIMS_H
#define LONGCA_CLAIMS_H

#include "select.h"

enum claim_verdict { CLAIM_HOLDS, CLAIM_FAILS, CLAIM_NOT_MEASURED };

// One line of claims.tsv: `reduce` over the values of `test` lies within [low, high].
struct claim {
  char id[8];
  char needs[8]; // gpu: rows of device engines only; gpus: of several ranks too; any
  char exp[64];  // experiments that measure it, for people
  char test[16]; // ratio value spread vary slope reach share
  struct filter of, against, where;
  char over[FILTER_TEXT];  // vary, slope, reach: along which column
  char share[FILTER_TEXT]; // share: of which status
  struct quantity quantity;
  char reduce[8];     // min median max wins
  double low, high;   // -inf, inf: open
  int least;          // values that a verdict needs
  char relation[400]; // the line as readers see it
  char sentence[400];
};

struct claim_result {
  enum claim_verdict verdict;
  double value; // NaN when not measured
  int n;        // values it was reduced from
  char at[160]; // min, max: the point it is from; not measured: what is missing
};

// 0, or -1 with a sentence in err that names file and line. *claims is for free().
int claims_load(const char *path, struct claim **claims, size_t *n, char *err, size_t err_size);
// Verdict from rows of one machine and profile.
struct claim_result claim_check(const struct claim *c, const struct row *rows, size_t n);
// Of several lines of one claim: FAILS if any fails, else NOT MEASURED if any is not, else HOLDS.
enum claim_verdict claim_join(enum claim_verdict a, enum claim_verdict b);
// Whether a word is one of a list parted by blanks.
bool claims_word_in(const char *word, const char *list);
const char *claim_verdict_name(enum claim_verdict v);

#endif
