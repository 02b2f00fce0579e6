# Figure 2: the fourteen mask patterns (study 1), drawn by their definition at S = 8192, seed 42.
#data for m in full causal sliding_window sliding_window_causal full_document causal_document share_question causal_blockwise global_sliding_window prefix_lm_causal prefix_lm_document block_causal_document uniform_block_sparse variable_block_sparse; do case $m in *_block_sparse) o="--block 512 --ratio 0.3" ;; *) o= ;; esac; echo "# $m |"; "$longca" mask --kind $m --seqlen 8192 --seed 42 --matrix 128 $o || exit 1; printf '\n\n'; done
#caption The fourteen mask patterns: queries run down, keys to the right, dark is visible. Drawn by the definition at S = 8192 with seed 42 (window 1024, blocks of 1024; block-sparse: blocks of 512, 30 % kept).
W = 12.5; H = 13.6
load "figures/style.gp"
KINDS = system("awk '/^# / { print $2 }' '".dat."'")
unset border; unset tics; unset key; unset grid; unset colorbox
set palette defined (0 "#f3f4f6", 1 "#0b3c5d"); set cbrange [0:1]
set xrange [-0.5:127.5]; set yrange [127.5:-0.5]
set border 15 lw 0.5 lc rgb GREY
set multiplot
do for [i = 1:words(KINDS)] {
  k = word(KINDS, i); c = (i - 1) % 4; r = (i - 1) / 4
  set lmargin at screen 0.01 + c * 0.2475; set rmargin at screen 0.01 + c * 0.2475 + 0.2275
  set tmargin at screen 1 - (0.42 + r * 3.38) / H; set bmargin at screen 1 - (0.42 + r * 3.38 + 0.2275 * W) / H
  t = k eq "uniform_block_sparse" ? "UNIFORM BLOCKS" : k eq "variable_block_sparse" ? "VARIABLE BLOCKS" : \
      k eq "sliding_window_causal" ? "CAUSAL WINDOW" : k eq "sliding_window" ? "FULL WINDOW" : \
      k eq "block_causal_document" ? "BLOCK CAUSAL DOC." : mask_title(k)
  set label 1 sprintf("{/:Bold %d} %s", i, t) at graph 0, graph 1.06 left font F.",6.2"
  plot dat index k." |" matrix with image notitle
}
unset multiplot
