// cmd_mask.c -- `longca mask`: a seeded mask as a picture with its area and documents, as one CSV row a
// draw (the form of the study's own draws), as a matrix of densities for gnuplot (figure 2), or what each
// representation of it takes.
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "cmd.h"
#include "mask_draw.h"
#include "mask_sizes.h"

struct request {
  struct mask_recipe recipe;
  uint64_t seed;
  int32_t first, draws;  // draws [first, first + draws) of the stream
  int32_t head;          // KV head shown
  int32_t matrix, width; // cells a side; 0: not asked for, as the terminal has
  bool csv, sizes, plain;
};

static void usage(FILE *out) {
  fprintf(
      out,
      "usage: longca mask --kind KIND --seqlen N [OPTION...]\n\n"
      "Draws a mask with its area, density and documents. N may end in K (1024) or M.\n\n"
      "  --kind KIND       %s\n"
      "  --seqlen N        tokens\n"
      "  --seed N          of the stream that the draws come from (42)\n"
      "  --draw N          first draw shown (0)\n"
      "  --draws N         how many successive draws (1)\n"
      "  --csv             one row a draw: "
      "mask,seqlen,seed,draw,histogram,lengths,prefix,window,area;\n"
      "                    lengths, prefix and window where the mask draws them\n"
      "  --sizes           one row a draw and representation: "
      "mask,seqlen,seed,draw,representation,\n"
      "                    bytes,build_ms,reason\n"
      "  --matrix N        N x N visible fractions, a line a row of queries (gnuplot: plot ... "
      "matrix)\n"
      "  --width N         cells of the picture (as the terminal has; 64 when not on a terminal)\n"
      "  --plain           the picture in ASCII, as when not on a terminal\n"
      "  --histogram NAME  document lengths: %s (by length: up to 12K pile,\n"
      "                    up to 64K prolong64k, above prolong512k)\n"
      "  --distributed     the rule of the distributed runs: prolong512k from 64K on\n"
      "  --window N        of the sliding windows (1024)\n"
      "  --block N         of block_causal_document (1024), uniform_block_sparse (64),\n"
      "                    variable_block_sparse (256 on average)\n"
      "  --block-min N     smallest variable block (128 or, if smaller, --block)\n"
      "  --ratio X         key blocks kept of the block-sparse masks (0.5)\n"
      "  --heads-kv N      KV heads, each with a block-sparse pattern of its own (1)\n"
      "  --head N          the one shown (0)\n",
      mask_names(), mask_histogram_names());
}

// A whole number from low to INT32_MAX, perhaps with K or M.
static int parse_count(const char *option, const char *text, int32_t low, int32_t *value) {
  char *end;
  errno = 0;
  long long x = strtoll(text, &end, 10);
  const int scale = *end == 'K' || *end == 'k' ? 1 << 10 : *end == 'M' || *end == 'm' ? 1 << 20 : 1;
  if (end == text || end[scale > 1] || errno || x < low || x > INT32_MAX / scale)
    return cmd_refuse("mask", "--%s needs a whole number from %d to %d, not '%s'", option, low,
                      INT32_MAX, text);
  *value = (int32_t)(x * scale);
  return 0;
}

// One option that takes a value. 0, or the exit status of a refusal.
static int parse_value(struct request *r, const char *name, const char *text) {
  const struct {
    const char *name;
    int32_t low, *value;
  } counts[] = {
      {"seqlen", 1, &r->recipe.seqlen},
      {"draw", 0, &r->first},
      {"draws", 1, &r->draws},
      {"matrix", 1, &r->matrix},
      {"width", 1, &r->width},
      {"window", 1, &r->recipe.window},
      {"block", 1, &r->recipe.block},
      {"block-min", 1, &r->recipe.block_min},
      {"heads-kv", 1, &r->recipe.heads_kv},
      {"head", 0, &r->head},
  };
  for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
    if (!strcmp(name, counts[i].name))
      return parse_count(name, text, counts[i].low, counts[i].value);
  char *end;
  errno = 0;
  if (!strcmp(name, "kind")) {
    const int kind = mask_parse(text);
    if (kind < 0)
      return cmd_refuse("mask", "unknown mask '%s'; the masks are %s", text, mask_names());
    r->recipe.kind = (enum mask_kind)kind;
  } else if (!strcmp(name, "seed")) {
    r->seed = strtoull(text, &end, 10);
    if (*text < '0' || *text > '9' || *end || errno)
      return cmd_refuse("mask", "--seed needs a whole number from 0 to 2^64 - 1, not '%s'", text);
  } else if (!strcmp(name, "ratio")) {
    r->recipe.ratio = strtod(text, &end);
    if (end == text || *end || !(r->recipe.ratio > 0 && r->recipe.ratio <= 1))
      return cmd_refuse("mask", "--ratio needs a number above 0 and at most 1, not '%s'", text);
  } else
    r->recipe.histogram = text;
  return 0;
}

// Fills the request; 0, the exit status of a refusal, or -1 after --help.
static int parse(int argc, char **argv, struct request *r) {
  int distributed = 0, csv = 0, sizes = 0, plain = 0, status = 0, c, index;
  const struct option options[] = {
      {"kind", 1, 0, 'v'},      {"seqlen", 1, 0, 'v'},
      {"seed", 1, 0, 'v'},      {"draw", 1, 0, 'v'},
      {"draws", 1, 0, 'v'},     {"matrix", 1, 0, 'v'},
      {"width", 1, 0, 'v'},     {"histogram", 1, 0, 'v'},
      {"window", 1, 0, 'v'},    {"block", 1, 0, 'v'},
      {"block-min", 1, 0, 'v'}, {"ratio", 1, 0, 'v'},
      {"heads-kv", 1, 0, 'v'},  {"head", 1, 0, 'v'},
      {"csv", 0, &csv, 1},      {"sizes", 0, &sizes, 1},
      {"plain", 0, &plain, 1},  {"distributed", 0, &distributed, 1},
      {"help", 0, 0, 'h'},      {0},
  };
  opterr = 0;
  optind = 1;
  while ((c = getopt_long(argc, argv, ":h", options, &index)) != -1) {
    if (c == 'h') {
      usage(stdout);
      return -1;
    }
    if (c == ':')
      return cmd_refuse("mask", "%s needs a value", argv[optind - 1]);
    if (c == '?')
      return cmd_refuse("mask", "unknown option '%s'; longca mask --help lists them",
                        argv[optind - 1]);
    if (c == 'v' && (status = parse_value(r, options[index].name, optarg)))
      return status;
  }
  r->recipe.distributed = distributed;
  r->csv = csv;
  r->sizes = sizes;
  r->plain = plain || !isatty(STDOUT_FILENO);
  if (optind < argc)
    return cmd_refuse("mask", "what is '%s'? longca mask --help says what it takes", argv[optind]);
  if (r->recipe.kind == MASK_KINDS)
    return cmd_refuse("mask", "--kind is missing; the masks are %s", mask_names());
  if (!r->recipe.seqlen)
    return cmd_refuse("mask", "--seqlen is missing, e.g. --seqlen 64");
  if (r->first > INT32_MAX - r->draws)
    return cmd_refuse("mask", "--draw and --draws together are above %d", INT32_MAX);
  if (csv + sizes + (r->matrix > 0) > 1)
    return cmd_refuse("mask", "choose one of --csv, --sizes and --matrix");
  if (r->matrix > r->recipe.seqlen || r->matrix > 8192)
    return cmd_refuse("mask", "--matrix is at most --seqlen and at most 8192");
  if (r->head >= r->recipe.heads_kv)
    return cmd_refuse("mask", "--head %d is not below --heads-kv %d", r->head, r->recipe.heads_kv);
  return 0;
}

static const char *histogram_of(const struct mask_recipe *r) {
  return r->histogram ? r->histogram : mask_histogram_for(r->seqlen, r->distributed);
}

static bool has_prefix(enum mask_kind kind) {
  return kind == MASK_PREFIX_LM_CAUSAL || kind == MASK_PREFIX_LM_DOCUMENT;
}

static void print_lengths(const struct mask *m) {
  for (int32_t doc = 0; doc < m->docs; doc++)
    printf("%s%d", doc ? " " : "", m->doc_begin[doc + 1] - m->doc_begin[doc]);
}

static void print_csv(const struct mask *m, const struct request *r, int32_t draw) {
  printf("%s,%d,%llu,%d,%s,", mask_name(m->kind), m->seqlen, (unsigned long long)r->seed, draw,
         mask_is_block_sparse(m->kind) ? "" : histogram_of(&r->recipe));
  if (mask_has_docs(m->kind))
    print_lengths(m);
  putchar(',');
  if (has_prefix(m->kind))
    printf("%d", m->prefix);
  putchar(',');
  if (m->kind == MASK_GLOBAL_SLIDING_WINDOW)
    printf("%d", m->window);
  printf(",%.17g\n", mask_area(m));
}

// Two rows of cells a line: half blocks where all four halves are clear, else a shade of their mean.
static const char *block_of(double top, double bottom) {
  static const char *const halves[] = {" ", "▀", "▄", "█"}, *const shades[] = {"░", "▒", "▓"};
  if ((top == 0 || top == 1) && (bottom == 0 || bottom == 1))
    return halves[(top == 1) + 2 * (bottom == 1)];
  const int shade = (int)((top + bottom) / 2 * 3);
  return shades[shade < 2 ? shade : 2];
}

static void print_picture(const double *density, int32_t n, bool plain) {
  for (int32_t row = 0; row < n; row += plain ? 1 : 2) {
    for (int32_t column = 0; column < n; column++) {
      const double top = density[(size_t)row * (size_t)n + (size_t)column];
      const double bottom =
          row + 1 < n ? density[((size_t)row + 1) * (size_t)n + (size_t)column] : 0;
      fputs(plain ? (top == 1 ? "#" : top > 0 ? "+" : ".") : block_of(top, bottom), stdout);
    }
    putchar('\n');
  }
}

static void print_matrix(const double *density, int32_t n) {
  for (size_t i = 0; i < (size_t)n * (size_t)n; i++)
    printf("%.6g%c", density[i], (i + 1) % (size_t)n ? ' ' : '\n');
}

static void print_facts(const struct mask *m, const struct request *r, int32_t draw,
                        int32_t cells) {
  const double pairs = (double)m->seqlen * m->seqlen, area = mask_area(m);
  if (cells < m->seqlen)
    printf("each cell %.4g x %.4g tokens%s\n", (double)m->seqlen / cells, (double)m->seqlen / cells,
           r->plain ? "; # all visible, + some, . none" : "; shaded: partly visible");
  printf("%s (%s): %s\n", mask_name(m->kind), mask_abbreviation(m->kind), mask_summary(m->kind));
  printf("length %d, seed %llu, draw %d\n", m->seqlen, (unsigned long long)r->seed, draw);
  printf("area %.17g of %.17g pairs, density %.4f%s\n", area, pairs, area / pairs,
         m->heads > 1 ? " (mean over the KV heads)" : "");
  if (m->kind == MASK_SLIDING_WINDOW || m->kind == MASK_SLIDING_WINDOW_CAUSAL ||
      m->kind == MASK_GLOBAL_SLIDING_WINDOW)
    printf("window %d\n", m->window);
  if (has_prefix(m->kind))
    printf("prefix %d\n", m->prefix);
  if (m->kind == MASK_BLOCK_CAUSAL_DOCUMENT)
    printf("blocks of %d\n", m->block);
  if (m->heads) {
    int32_t kept = 0;
    for (int32_t c = 0; c < m->blocks_k; c++)
      kept += (int32_t)(m->kept[c / 32] >> (c % 32) & 1);
    printf("%d x %d blocks of %d%s, %d key blocks kept a query block; KV head %d of %d shown\n",
           m->blocks_q, m->blocks_k, m->block,
           m->kind == MASK_VARIABLE_BLOCK_SPARSE ? " on average" : "", kept, r->head, m->heads);
  }
  if (mask_has_docs(m->kind)) {
    printf("%d document%s (%s): ", m->docs, m->docs == 1 ? "" : "s",
           m->kind == MASK_BLOCK_CAUSAL_DOCUMENT ? "1 to 8 blocks each" : histogram_of(&r->recipe));
    print_lengths(m);
    putchar('\n');
  }
}

// Cells of the picture: no more than fit, and no more than there are tokens.
static int32_t picture_cells(const struct request *r) {
  int32_t cells = r->width ? r->width : 64;
  struct winsize window;
  if (!r->width && !r->plain && !ioctl(STDOUT_FILENO, TIOCGWINSZ, &window) && window.ws_col > 0) {
    cells = window.ws_col;
    if (window.ws_row > 16 && cells > 2 * (window.ws_row - 8)) // leaves room for the facts below
      cells = 2 * (window.ws_row - 8);
  }
  if (cells > 1024)
    cells = 1024;
  return cells < r->recipe.seqlen ? cells : r->recipe.seqlen;
}

static int print_mask(const struct mask *m, const struct request *r, int32_t draw) {
  if (r->csv) {
    print_csv(m, r, draw);
    return 0;
  }
  if (r->sizes) {
    char prefix[96];
    snprintf(prefix, sizeof prefix, "%s,%d,%llu,%d", mask_name(m->kind), m->seqlen,
             (unsigned long long)r->seed, draw);
    return mask_sizes_print(m, prefix);
  }
  const int32_t n = r->matrix ? r->matrix : picture_cells(r);
  double *density = malloc(sizeof *density * (size_t)n * (size_t)n);
  if (!density)
    return -1;
  if (draw > r->first)
    puts(r->matrix ? "\n" : "");
  mask_picture(m, m->heads ? r->head : 0, n, density);
  if (r->matrix)
    print_matrix(density, n);
  else {
    print_picture(density, n, r->plain);
    print_facts(m, r, draw, n);
  }
  free(density);
  return 0;
}

int cmd_mask(int argc, char **argv) {
  struct request r = {
      .seed = 42, .draws = 1, .recipe = {.kind = MASK_KINDS, .heads_kv = 1, .ratio = 0.5}};
  const int status = parse(argc, argv, &r);
  if (status)
    return status > 0 ? status : 0;
  struct mask_rng rng = {.next = 0};
  mask_rng_seed(&rng, r.seed);
  for (int32_t draw = 0; draw < r.first + r.draws; draw++) {
    struct mask m;
    char err[256];
    if (mask_draw(&m, &rng, &r.recipe, err, sizeof err))
      return cmd_refuse("mask", "%s", err);
    if (draw == 0 && r.csv)
      puts("mask,seqlen,seed,draw,histogram,lengths,prefix,window,area");
    if (draw == 0 && r.sizes)
      puts("mask,seqlen,seed,draw,representation,bytes,build_ms,reason");
    const int failed = draw >= r.first && print_mask(&m, &r, draw);
    mask_free(&m);
    if (failed)
      return cmd_refuse("mask", "out of memory for %s",
                        r.sizes ? "a representation" : "the picture");
  }
  if (fflush(stdout) || ferror(stdout)) {
    fputs("longca mask: the output could not be written.\n", stderr);
    return 1;
  }
  return 0;
}
