# Figure 6: how long the documents are that the document masks are drawn from (study 2.1).
#data for h in pile prolong64k prolong512k; do echo "# $h |"; awk -F, 'FNR > 1 && !/^#/ && NF == 3 { n++; lo[n] = $1; hi[n] = $2; w[n] = $3; sum += $3 } END { for (i = 1; i <= n; i++) { a = lo[i] < 16 ? 16 : lo[i]; d = w[i] / sum / (log(hi[i] / a) / log(2)); print a, d, hi[i]; print hi[i], d, hi[i] } }' data/distributions/$h.csv; printf '\n\n'; done
#caption Document lengths: share of the documents per doubling of the length, of the three histograms that masks are drawn from (data/distributions; the paper's figure also shows three corpora that it does not draw from).
W = 12.5; H = 7.2
load "figures/style.gp"
set multiplot
set lmargin at screen 0.085; set rmargin at screen 0.97; set tmargin at screen 0.9; set bmargin at screen 0.155
set logscale x 2; set xrange [16:2**24]; set yrange [0:*]
set xtics (0); do for [e = 4:24:2] { v = 2**e; set xtics add ((v >= 1048576 ? sprintf("%dM", v / 1048576) : length_label(v)) v) }
set xlabel "document length (words, used as tokens)" offset 0, 0.5 font F.",7.5"
set ylabel "share per doubling" offset 1.0, 0 font F.",7.5"
set format y "%.2f"
set style fill transparent solid 0.18 noborder
NAMES = "pile prolong64k prolong512k"; HUES = "#0072b2 #e69f00 #009e73"
SAID = "'Pile (up to 12K)' 'ProLong64K (to 64K)' 'ProLong512K (longer)'"
do for [i = 1:3] {
  set label i word(SAID, i) at screen 0.6, screen 0.86 - 0.062 * (i - 1) left font F.",8" tc rgb word(HUES, i) }
plot for [i = 1:3] dat index word(NAMES, i)." |" using 1:2 with filledcurves y1=0 lc rgb word(HUES, i) notitle, \
     for [i = 1:3] dat index word(NAMES, i)." |" using 1:2 with lines lc rgb word(HUES, i) lw 1.4 notitle
unset multiplot
