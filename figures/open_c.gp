# Open question C: what a mask takes in each representation (study 8), exactly; nothing is measured.
#data for m in causal causal_document share_question prefix_lm_document global_sliding_window block_causal_document; do for s in 1K 4K 16K 64K 256K; do "$longca" mask --kind $m --seqlen $s --sizes || exit 1; done; done | awk -F, '$1 == "mask" { next } !($5 in text) { order[++n] = $5 } { key = $1 " " $5; if (!(key in text)) keys[++k] = key; text[$5]; text[key] = text[key] ($6 == "" ? "" : $2 " " ($6 < 24 ? 24 : $6) "\n") } END { if (!k) exit 1; for (i = 1; i <= k; i++) if (text[keys[i]] != "") printf "# %s |\n%s\n\n", keys[i], text[keys[i]] }'
#title Open question C: a compact mask representation
#caption Bytes of a mask in each representation, by length (draw 0 of seed 42; 24 bytes at least are drawn). dense is S x S bits; columns is FlashMask's, blockmap FlexAttention's, band FlashAttention's; spans is ours: a run of rows whose key intervals stand still or move with the row takes 24 bytes, whatever its length. Expressed in spans, every mask of the study but the block-sparse ones is as long as its description.
PANELS = "causal causal_document share_question prefix_lm_document global_sliding_window block_causal_document"
COLS = 3; NP = words(PANELS); ROWS = (NP + COLS - 1) / COLS
W = 17.6; PANEL_H = 3.6; TOP = 1.1; BOTTOM = 0.8; GUTTER = 1.0
H = TOP + BOTTOM + ROWS * (PANEL_H + GUTTER)
load "figures/style.gp"
REPS = "dense band columns blockmap spans"
LT_dense = 2; LT_band = 3; LT_columns = 7; LT_blockmap = 6; LT_spans = 4
label(k) = k
set logscale x 2; set xrange [900:300000]; set xtics (0)
do for [e = 10:18:2] { set xtics add (length_label(2**e) 2**e) }
set logscale y 10; set yrange [12:3e10]; set ytics ("24 B" 24, "1 KB" 1e3, "1 MB" 1e6, "1 GB" 1e9)
LEFT = 0.065; RIGHT = 0.99; GAP = 0.025; PW = (RIGHT - LEFT - GAP * (COLS - 1)) / COLS
set multiplot
do for [i = 1:NP] {
  P = word(PANELS, i); COL = (i - 1) % COLS; ROW = (i - 1) / COLS
  set lmargin at screen LEFT + COL * (PW + GAP); set rmargin at screen LEFT + COL * (PW + GAP) + PW
  set tmargin at screen 1 - (TOP + 0.45 + ROW * (PANEL_H + GUTTER)) / H
  set bmargin at screen 1 - (TOP + 0.45 + ROW * (PANEL_H + GUTTER) + PANEL_H) / H
  set label 1 sprintf("{/:Bold (%s)} %s", letter(i), mask_title(P)) at graph 0, graph 1.07 left font F.",7"
  if (COL > 0) { set format y ""; set ytics ("" 24, "" 1e3, "" 1e6, "" 1e9) } \
  else { set ytics ("24 B" 24, "1 KB" 1e3, "1 MB" 1e6, "1 GB" 1e9) }
  if (ROW == ROWS - 1) { set xlabel "sequence length" offset 0, 0.6 font F.",7.5" } else { unset xlabel }
  HAVE = system("awk -v p='".P."' '$1 == \"#\" && $2 == p { print $3 }' '".dat."'")
  plot for [k in HAVE] dat index P." ".k." |" using 1:2 with linespoints lt value("LT_".k) lw 1.1 notitle
}
unset label; unset border; unset tics; unset grid; unset logscale; unset xlabel; unset ylabel
KEY = REPS; KEY_Y = 1 - 0.25 / H
load "figures/key.gp"
unset multiplot
