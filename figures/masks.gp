# masks.gp -- all masks at one length, a lane for each kernel (figures 3 and 7): a dot at the rate, a
# stem from zero, a bar for the interval. Kernels that do not support a mask are named in its row.

W = 12.5; H = 2.3 + 12 * 1.02
load "figures/style.gp"
NAMES = meta("xnames"); N = words(NAMES); SERIES = meta("series"); DRAWN = meta("drawn all")
if (strlen(DRAWN) == 0) { x = stop("nothing was measured"); exit status 1 }
MAX = top_of("all"); K = MAX < 2 ? 1000.0 : 1.0
# Kernels with the given status at mask i, as words.
with_status(i, s) = system("awk -v i=".i." -v s=".s." '/^# / { k = $3 } NF > 5 && $1 == i && $5 == s { printf \"%s \", k }' '".dat."'")

NS = words(SERIES)
lane(n) = (n - (NS + 1) / 2.0) * 0.82 / NS
at(k) = sum [n = 1:NS] (word(SERIES, n) eq k ? lane(n) : 0)
set multiplot
set lmargin at screen 0.285; set rmargin at screen 0.975
set tmargin at screen 1 - 1.05 / H; set bmargin at screen 1.15 / H
set xrange [0 : MAX * K * 1.06]; set yrange [N + 0.5 : 0.5]
unset grid; set grid xtics lw 0.5 lt 1 lc rgb LIGHT
set border 1; set ytics scale 0 offset 0.6, 0 font F.",6.5" tc rgb "black"
set ytics (0); do for [i = 1:N] { set ytics add (mask_title(word(NAMES, i)) i) }
set xlabel (K > 1 ? "GFLOP/s" : "TFLOP/s") offset 0, 0.6 font F.",7.5"
set label 2 sprintf("S = %s, %s", length_label(int(word(meta("seqlen"), 1))), meta("shape all")) \
  at graph 1, graph 1.012 right font F.",6" tc rgb GREY
# Stripes part the masks; the lanes lie within.
do for [i = 1:N] { if (i % 2 == 0) {
  set object 100 + i rectangle from graph 0, first i - 0.5 to graph 1, first i + 0.5 fs solid noborder fc rgb "#f4f4f4" behind }
  # Said in the lanes that stay empty.
  u = with_status(i, "unsupported")
  if (strlen(u)) {
    y = 0; do for [k in u] { y = y + at(k) / words(u) }
    set label 100 + i "unsupported: ".u at graph 0.008, first i + y left font F.",5.5" tc rgb GREY noenhanced }
  do for [n = 1:NS] { do for [s in "oom wrong timeout crash"] {
    if (strstrt(" ".with_status(i, s), " ".word(SERIES, n)." ")) {
      set label 1100 + 20 * i + n (s eq "oom" ? "out of memory" : s) at graph 0.008, first i + lane(n) left \
        font F.",5.5" tc lt value("LT_".word(SERIES, n)) } } } }
plot for [k in DRAWN] dat index "all ".k." |" using (0):($1 + at(k)):($2*K):(0) with vectors nohead lt value("LT_".k) lw 0.5 notitle, \
     for [k in DRAWN] dat index "all ".k." |" using ($2*K):($1 + at(k)):($3*K):($4*K) with xerrorbars lt value("LT_".k) lw 0.9 notitle
unset object; unset label; unset border; unset tics; unset grid; unset xlabel
KEY = DRAWN; KEY_Y = 1 - 0.25 / H
load "figures/key.gp"
unset multiplot
