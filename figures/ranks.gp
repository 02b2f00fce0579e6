# ranks.gp -- panels of curves over the ranks, for the figures of context parallelism (fig5, fig20..23).
# Rates are per rank, by the slowest one. A panel for each transport and pass that was measured, all on one y
# axis; TITLE(panel) is set before. A schedule that refuses a number of ranks leaves a gap, and is named below it.
#
# Where the machine's links and rates are known (machine.ini beside its rows, by longca model --calibrate), dashed
# lines without points show what the model says, up to the 96 ranks of the paper. Points of one number of ranks
# stand side by side, so that their bars can be told apart.

meta0(key) = system("awk -v k='#".key." ' 'index($0, k) == 1 { print substr($0, length(k) + 1); exit }' '".dat."'")
PANELS = meta0("panels"); NP = words(PANELS)
COLS = NP > 1 ? 2 : 1; ROWS = (NP + COLS - 1) / COLS
W = COLS > 1 ? 12.5 : 8; PANEL_H = 4.6
TOP = 1.3; BOTTOM = 0.3; GUTTER = 1.3
H = TOP + BOTTOM + ROWS * (PANEL_H + GUTTER)
load "figures/style.gp"
LT_ulysses = 3; LT_ring_p2p = 7; LT_ring_allgather = 6; LT_usp = 4; LT_loongtrain = 5
LT_usp_context_first = 2; LT_loongtrain_context_first = 1

MAX = 0
do for [p in PANELS] { t = top_of(p); if (t > MAX) { MAX = t } }
K = MAX < 2 ? 1000.0 : 1.0; YLABEL = MAX < 2 ? "GFLOP/s a rank" : "TFLOP/s a rank"
XS = meta("xnames"); X0 = real(word(XS, 1)); X1 = real(word(XS, words(XS)))
set logscale x 2
set xtics (0); do for [x in XS] { set xtics add (x int(x)) }
INI = system("ls data/recorded/".meta("machine")."/machine.ini data/fresh/".meta("machine")."/machine.ini 2>/dev/null | head -n 1")
COMMAS(list) = system("echo '".list."' | tr ' ' ','")
PASSES = system("echo '".PANELS."' | tr ' ' '\n' | sed -n 's|^nccl/||p' | paste -sd,")
if (strlen(PASSES) == 0) { INI = "" }
MODELLED(p) = strlen(INI) > 0 && part(p, 1) eq "nccl"
if (strlen(INI) > 0) {
  x = system("${LONGCA:-build/longca} model --machine ".INI." --mask ".word(meta("mask"), 1)." --heads ".word(meta("heads_q"), 1).":".word(meta("heads_kv"), 1)." --dim ".word(meta("dim"), 1)." --cp ".COMMAS(meta("series"))." --pass ".PASSES." --draws 8 --ranks 1,2,4,8,16,32,64,96 --format csv >'".dat.".model'")
  X1 = 96
  t = real(system("awk -F, 'NR > 1 && $9 + 0 > m { m = $9 + 0 } END { print m + 0 }' '".dat.".model'"))
  if (t > MAX) { MAX = t }
  do for [n in "1 2 4 8 16 32 64 96"] { if (real(n) >= X0) { set xtics add (n int(n)) } }
}
modelled(p, k) = "< awk -F, -v c=".k." -v p=".part(p, 2)." '$3 == c && $2 == p && $9 + 0 > 0 { print $4, $9 }' '".dat.".model'"
ini(key) = real(system("awk -F'[ =]+' -v k=".key." '$1 == k { print $2 + 0 }' ".INI))
LINKS = strlen(INI) > 0 ? sprintf("dashed: model; %g ranks a host, %.0f GB/s each between hosts", ini("node"), ini("far_bytes_us") / 1e3) : ""
set xrange [X0 / 1.25 : X1 * 1.15]
DODGE(i, n) = (1.4 * X1 / X0) ** (0.008 * (i - (n + 1) / 2.0))
LEFT = COLS > 1 ? 0.085 : 0.13; RIGHT = 0.985; GAP = 0.035
PW = (RIGHT - LEFT - GAP * (COLS - 1)) / COLS
SERIES = meta("series")
# "ulysses on 96": what was not run in this panel; "8 ranks" alone when nothing was.
refused(p) = system("awk -v p='".p."' '/^# / { on = $2 == p; k = $3; m += on } on && $5 == \"unsupported\" { r[$1] = r[$1] \" \" k; c[$1]++ } END { for (x in r) printf \"%s%s on %s\", (n++ ? \"; \" : \"\"), c[x] == m ? \" all\" : r[x], x }' '".dat."'")
YMAX = MAX > 0 ? MAX * K * 1.12 : 1
set yrange [0 : YMAX]; set ytics tick_step(YMAX)
set multiplot
do for [i = 1:NP] {
  P = word(PANELS, i); COL = (i - 1) % COLS; ROW = (i - 1) / COLS
  set lmargin at screen LEFT + COL * (PW + GAP); set rmargin at screen LEFT + COL * (PW + GAP) + PW
  set tmargin at screen 1 - (TOP + 0.2 + ROW * (PANEL_H + GUTTER)) / H
  set bmargin at screen 1 - (TOP + 0.2 + ROW * (PANEL_H + GUTTER) + PANEL_H) / H
  set label 1 sprintf("{/:Bold (%s)} %s", letter(i), TITLE(P)) at graph 0, graph 1.07 left font F.",7.5"
  set label 2 meta("shape ".P) at graph 1, graph 1.07 right font F.",6" tc rgb GREY
  r = refused(P)
  set label 4 (MODELLED(P) ? LINKS : part(P, 1) eq "nccl" ? "" : "all ranks share one machine") at graph 0.985, graph (MODELLED(P) ? 0.1 : 0.96) right font F.",5.5" tc rgb GREY
  set label 3 (strlen(r) > 0 ? "not run:".r : "") at graph 0.015, graph 0.04 left font F.",5.5" tc rgb GREY noenhanced
  set format y (COL == 0 ? "%g" : "")
  if (COL == 0) { set ylabel YLABEL offset 1.2, 0 font F.",7.5" } else { unset ylabel }
  if (ROW == ROWS - 1 || i + COLS > NP) { set xlabel "ranks" offset 0, 0.6 font F.",7.5" } else { unset xlabel }
  DRAWN = meta("drawn ".P)
  N = words(DRAWN)
  if (MODELLED(P)) {
    plot for [j = 1:N] modelled(P, word(DRAWN, j)) using 1:($2*K) with lines lt value("LT_".word(DRAWN, j)) lw 0.8 dt (10, 7) notitle, \
         for [j = 1:N] dat index P." ".word(DRAWN, j)." |" using ($1*DODGE(j, N)):($2*K):($3*K):($4*K) \
           with yerrorlines lt value("LT_".word(DRAWN, j)) lw 1.1 notitle
  } else {
    plot for [j = 1:N] dat index P." ".word(DRAWN, j)." |" using ($1*DODGE(j, N)):($2*K):($3*K):($4*K) \
           with yerrorlines lt value("LT_".word(DRAWN, j)) lw 1.1 notitle
  }
  unset label 1000
}
unset label; unset border; unset tics; unset grid; unset logscale; unset xlabel; unset ylabel
KEY = SERIES; KEY_Y = 1 - 0.25 / H
load "figures/key.gp"
unset multiplot
