# sweep.gp -- panels of curves over the sequence length, or the share of blocks kept, for the figures that are
# such (fig4, fig8..14, fig16..19, open_a, open_d). Set before: PANELS (names in the block file), COLS, TITLE(panel), MODE(panel) (gqa or mha), and
# Y = "rate" or "memory"; optionally PANEL_H in cm. Rates start at 0, memory has logarithmic axes (straight lines
# are powers of the length); all panels share one y axis, so that a mask can be held against another.

NP = words(PANELS); ROWS = (NP + COLS - 1) / COLS
if (!exists("PANEL_H")) { PANEL_H = 3.5 }
if (!exists("W")) { W = COLS > 2 ? 17.6 : 12.5 }
TOP = 1.1; BOTTOM = 1.05; GUTTER = 1.0     # cm: the key above; x label and foot below; between rows
H = TOP + BOTTOM + ROWS * (PANEL_H + GUTTER)
load "figures/style.gp"

do for [p in PANELS] {
  if (meta("drawn ".p) eq "") { x = stop("nothing was measured for panel ".p); exit status 1 } }

MAX = 0
do for [p in PANELS] { t = top_of(p); if (t > MAX) { MAX = t } }
if (Y eq "rate") { K = MAX < 2 ? 1000.0 : 1.0; YLABEL = MAX < 2 ? "GFLOP/s" : "TFLOP/s" } \
else { K = MAX < 2 ? 1000.0 : 1.0; YLABEL = MAX < 2 ? "peak memory (MB)" : "peak memory (GB)" }

# Ticks at the powers of two that were measured; other lengths get a mark without a label. Or, for shares of
# the blocks kept, at those.
XS = meta("xnames"); X0 = real(word(XS, 1)); X1 = real(word(XS, words(XS)))
XLABEL = X1 > 1 ? "sequence length" : "key blocks kept"
set xtics (0)
if (X1 > 1) { set logscale x 2; set xrange [X0 / 1.12 : X1 * 1.12] } else { set xrange [0:1] }
do for [x in XS] { l = log(real(x)) / log(2)
  if (X1 <= 1) { set xtics add (sprintf("%g %%%%", 100 * real(x)) real(x)) } else {
  if (abs(l - int(l + 0.5)) < 1e-6) { set xtics add (length_label(int(x)) int(x)) } \
  else { set xtics add ("" int(x) 1) } } }

# Where the mark of a point that failed stands: rates at the foot, memory at the top of the panel.
FAIL_AT(n) = Y eq "rate" ? YMAX * (0.045 * n - 0.01) : YMAX * 1.8 * 0.87 ** (n - 1)
YMAX = MAX * K
if (Y eq "rate") { set yrange [0 : YMAX * 1.1]; set ytics tick_step(YMAX * 1.1) } \
else { set logscale y 2; set yrange [real(meta("low")) * K / 1.3 : YMAX * 2] }
LEFT = COLS > 2 ? 0.072 : 0.085; RIGHT = 0.985; GAP = COLS > 2 ? 0.02 : 0.035
PW = (RIGHT - LEFT - GAP * (COLS - 1)) / COLS
SERIES = meta("series")
set multiplot
do for [i = 1:NP] {
  P = word(PANELS, i); COL = (i - 1) % COLS; ROW = (i - 1) / COLS
  set lmargin at screen LEFT + COL * (PW + GAP); set rmargin at screen LEFT + COL * (PW + GAP) + PW
  set tmargin at screen 1 - (TOP + 0.45 + ROW * (PANEL_H + GUTTER)) / H
  set bmargin at screen 1 - (TOP + 0.45 + ROW * (PANEL_H + GUTTER) + PANEL_H) / H
  set label 1 sprintf(FORMAT eq "dumb" ? "(%s) %s" : "{/:Bold (%s)} %s", letter(i), TITLE(P)) at graph 0, graph 1.09 left font F.",".(COLS > 2 ? "6.2" : strlen(TITLE(P)) > 24 ? "6.6" : strlen(TITLE(P)) > 20 ? "7" : "7.5")
  set label 2 MODE(P)." ".word(meta("shape ".P), 1) at graph 1, graph 1.09 right font F.",".(COLS > 2 ? "5" : "6") tc rgb GREY
  u = meta("unsupported ".P); f = meta("failed ".P)
  u = (strlen(u) ? "unsupported: ".u."  " : "").(strlen(f) ? "failed: ".f : "")
  if (Y eq "rate") { set label 3 u at graph 0.015, graph 0.965 left font F.",5.5" tc rgb GREY noenhanced } \
  else { set label 3 u at graph 0.99, graph 0.05 right font F.",5.5" tc rgb GREY noenhanced }
  set format y (COL == 0 ? (Y eq "rate" ? "%g" : "%.3g") : "")
  if (COL == 0) { set ylabel YLABEL offset 1.2, 0 font F.",7.5" } else { unset ylabel }
  if (ROW == ROWS - 1) { set xlabel XLABEL offset 0, 0.6 font F.",7.5" } else { unset xlabel }
  DRAWN = meta("drawn ".P)
  # A cross at the edge, in the kernel's colour, stands for a length at which it ran out of memory; a
  # star for one that failed otherwise (wrong, timeout, crash).
  plot for [k in DRAWN] dat index P." ".k." |" using 1:($2*K):($3*K):($4*K) \
         with yerrorlines lt value("LT_".k) lw 1.1 notitle, \
       for [n = 1:words(DRAWN)] dat index P." ".word(DRAWN, n)." |" \
         using 1:(strcol(5) eq "oom" ? FAIL_AT(n) : NaN) \
         with points lt value("LT_".word(DRAWN, n)) pt 2 ps 0.5 lw 1.5 notitle, \
       for [n = 1:words(DRAWN)] dat index P." ".word(DRAWN, n)." |" \
         using 1:(strcol(5) eq "wrong" || strcol(5) eq "timeout" || strcol(5) eq "crash" ? \
                  FAIL_AT(n) : NaN) \
         with points lt value("LT_".word(DRAWN, n)) pt 3 ps 0.5 notitle
  unset label 1000
}
# The key, one for all panels, in a strip at the top; plotted last, as what it unsets stays unset.
unset label; unset border; unset tics; unset grid; unset logscale; unset xlabel; unset ylabel
KEY = ""
do for [k in SERIES] { n = 0; do for [p in PANELS] { n = n + (strstrt(" ".meta("drawn ".p)." ", " ".k." ") > 0) }
  if (n > 0) { KEY = KEY." ".k } }
KEY_Y = 1 - 0.25 / H
load "figures/key.gp"
unset multiplot
