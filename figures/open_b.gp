# Open question B: context parallelism for every mask (study 8). How evenly the work falls on ranks, and what
# that makes of the rate, for five ways of cutting the sequence. Nothing is measured here.
#data "$longca" model --machine experiments/cluster/h100.ini --pass fwd --ranks 64 --mask full,causal,sliding_window,sliding_window_causal,full_document_long,causal_document_long,share_question,causal_blockwise,global_sliding_window,prefix_lm_causal,prefix_lm_document,block_causal_document --cp usp:contiguous,usp:whole,usp:documents,usp:slices,usp:chunks --format csv | awk -F, 'NR > 1 { if (!($1 in at)) { at[$1] = ++n; print "#mask " $1 } sub(/.*:/, "", $3); if (!($3 in text)) order[++m] = $3; text[$3] = text[$3] at[$1] " " $10 " " $9 "\n" } END { if (!m) exit 1; for (i = 1; i <= m; i++) printf "# %s |\n%s\n\n", order[i], text[order[i]] }'
#title Open question B: context parallelism for every mask
#caption USP on 64 GPUs (8 x 8), 8K tokens each. (a) Work of the busiest ring rank over the mean, exact, the worst of the draws; (b) forward rate a GPU as the model has it for the study's H100 cluster (longca model; not measured). Tokens are dealt out as one run a rank (contiguous), as piece and mirror of the whole sequence, of each document (the study), of each slice of rows whose cost is linear, or in chunks of 256 rows by their cost.
W = 12.5; H = 9.4
load "figures/style.gp"
NAMES = system("sed -n 's/^#mask //p' '".dat."'"); N = words(NAMES)
CUTS = "contiguous whole documents slices chunks"; NS = words(CUTS)
LT_contiguous = 1; LT_whole = 2; LT_documents = 3; LT_slices = 7; LT_chunks = 4
lane(n) = (n - (NS + 1) / 2.0) * 0.78 / NS
set yrange [N + 0.5 : 0.5]
unset grid; set grid xtics lw 0.5 lt 1 lc rgb LIGHT
set border 1; set ytics scale 0 offset 0.6, 0 font F.",6.5" tc rgb "black"
set ytics (0); do for [i = 1:N] { set ytics add (mask_title(word(NAMES, i)) i) }
do for [i = 1:N] { if (i % 2 == 0) {
  set object 100 + i rectangle from graph 0, first i - 0.5 to graph 1, first i + 0.5 fs solid noborder fc rgb "#f4f4f4" behind } }
set multiplot
set tmargin at screen 1 - 1.15 / H; set bmargin at screen 1.0 / H
set lmargin at screen 0.285; set rmargin at screen 0.62
set logscale x 2; set xrange [0.96:4.5]; set xtics (1, 1.5, 2, 3, 4)
set xlabel "most over mean work" offset 0, 0.6 font F.",7.5"
set label 1 "{/:Bold (a)} balance" at graph 0, graph 1.03 left font F.",7"
plot for [n = 1:NS] dat index word(CUTS, n)." |" using (1):($1 + lane(n)):($2 - 1):(0) with vectors nohead lt value("LT_".word(CUTS, n)) lw 0.5 notitle, \
     for [n = 1:NS] dat index word(CUTS, n)." |" using 2:($1 + lane(n)) with points lt value("LT_".word(CUTS, n)) notitle
unset logscale x; unset ytics; set xrange [0:720]; set xtics 0, 200
set lmargin at screen 0.65; set rmargin at screen 0.975
set xlabel "TFLOP/s a GPU" offset 0, 0.6 font F.",7.5"
set label 1 "{/:Bold (b)} modelled rate" at graph 0, graph 1.03 left font F.",7"
plot for [n = 1:NS] dat index word(CUTS, n)." |" using (0):($1 + lane(n)):3:(0) with vectors nohead lt value("LT_".word(CUTS, n)) lw 0.5 notitle, \
     for [n = 1:NS] dat index word(CUTS, n)." |" using 3:($1 + lane(n)) with points lt value("LT_".word(CUTS, n)) notitle
unset object; unset label; unset border; unset tics; unset grid; unset xlabel
label(k) = k
KEY = CUTS; KEY_Y = 1 - 0.25 / H
load "figures/key.gp"
unset multiplot
