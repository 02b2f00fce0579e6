# style.gp -- the look of every figure: terminals, palette, labels read from the block file.
#
# figures/draw.sh calls a script with -e "FORMAT='svg'; OUT='...'; dat='...'". A script sets W and H
# (centimetres), loads this file and draws. Colours are Wong's set without yellow, which is safe for
# readers who are blind to red or green; a kernel has its colour and its point in every figure.

F = "Liberation Sans"            # metrics of Helvetica and Arial, which readers of the SVG have
if (FORMAT eq "svg") {           # user units are pixels at 96 dpi; text in points
  set terminal svg size W*96/2.54, H*96/2.54 dynamic enhanced font F.",8" fontscale 1.333 \
    linewidth 1 background rgb "white"
} else { if (FORMAT eq "pdf") {
  set terminal pdfcairo size W cm, H cm enhanced font F.",8" fontscale 0.667 linewidth 1 rounded
} else { if (FORMAT eq "png") {  # 250 dpi
  set terminal pngcairo size int(W*250/2.54), int(H*250/2.54) enhanced font F.",8" \
    fontscale 250/72.0*0.75 linewidth 2.5 pointscale 2.5 rounded background rgb "white"
} else {
  set terminal dumb size COLUMNS, int(COLUMNS*H/W*0.42) noenhanced
} } }
if (FORMAT ne "dumb") { set output OUT }

# ---- palette: linetype number, colour, point of each kernel ------------------------------------
GREY = "#6b6b6b"; LIGHT = "#dddddd"
LT_naive = 1;      set linetype 1  lc rgb "#7f7f7f" pt 4  ps 0.45 lw 1.3
LT_sdpa = 2;       set linetype 2  lc rgb "#cc79a7" pt 6  ps 0.5  lw 1.3
LT_fa2 = 3;        set linetype 3  lc rgb "#56b4e9" pt 9  ps 0.55 lw 1.3
LT_fa3 = 4;        set linetype 4  lc rgb "#0072b2" pt 7  ps 0.5  lw 1.3
LT_cudnn = 5;      set linetype 5  lc rgb "#009e73" pt 13 ps 0.6  lw 1.3
LT_flex = 6;       set linetype 6  lc rgb "#e69f00" pt 5  ps 0.45 lw 1.3
LT_flashmask = 7;  set linetype 7  lc rgb "#d55e00" pt 11 ps 0.55 lw 1.3
LT_vsa = 8;        set linetype 8  lc rgb "#0072b2" pt 7  ps 0.5  lw 1.3
LT_vsa_triton = 9; set linetype 9  lc rgb "#cc79a7" pt 6  ps 0.5  lw 1.3
LT_fa2_sparse = 10; set linetype 10 lc rgb "#56b4e9" pt 8 ps 0.55 lw 1.3
LT_flashinfer = 11; set linetype 11 lc rgb "#009e73" pt 15 ps 0.5 lw 1.3
LT_flashmask_v3 = 7
LT_spans = 13;     set linetype 13 lc rgb "#000000" pt 7  ps 0.45 lw 1.3
LT_flex_sparse = 12; set linetype 12 lc rgb "#e69f00" pt 4 ps 0.45 lw 1.3

# ---- what the block file says of itself --------------------------------------------------------
meta(key) = system("awk -v k='#".key." ' 'index($0, k) == 1 { print substr($0, length(k) + 1); exit }' '".dat."'")
top_of(panel) = real(system("awk -v p='".panel."' '/^# / { on = $2 == p } on && NF > 4 && $4 + 0 > m { m = $4 + 0 } END { print m + 0 }' '".dat."'"))
stop(what) = system("echo '".dat.": ".what."' >&2")

label(k) = meta("label ".k)
mask_title(m) = m eq "full" ? "FULL" : m eq "causal" ? "CAUSAL" : m eq "sliding_window" ? "FULL SLIDING WINDOW" : \
  m eq "sliding_window_causal" ? "CAUSAL SLIDING WINDOW" : m eq "full_document" ? "FULL DOCUMENT" : \
  m eq "causal_document" ? "CAUSAL DOCUMENT" : m eq "share_question" ? "SHARED QUESTION" : \
  m eq "causal_blockwise" ? "CAUSAL BLOCKWISE" : m eq "global_sliding_window" ? "GLOBAL SLIDING" : \
  m eq "prefix_lm_causal" ? "PREFIX LM CAUSAL" : m eq "prefix_lm_document" ? "PREFIX LM DOCUMENT" : \
  m eq "block_causal_document" ? "BLOCK CAUSAL DOCUMENT" : m eq "full_document_long" ? "FULL DOCUMENT LONG" : \
  m eq "causal_document_long" ? "CAUSAL DOCUMENT LONG" : m
pass_title(p) = p eq "fwd" ? "forward" : "backward"
mode_title(m) = m eq "gqa" ? "GQA" : "MHA"
letter(i) = substr("abcdefghijklmnopqrstuvwxyz", i, i)
length_label(s) = s >= 1024 && s % 1024 == 0 ? sprintf("%dK", s / 1024) : sprintf("%d", s)

# Who, where, when: the grey line at the foot of a figure of measurements.
if (dat ne '/dev/null' && meta('machine') ne '') {
  foot = (meta("profile") eq "cpu" || meta("profile") eq "smoke" ? \
          "CPU engine, ".meta("profile")." profile: small sizes, no evidence about GPUs" : meta("profile")." profile")
  commits = meta("commit"); days = meta("utc")
  commits = "commit ".substr(word(commits, 1), 1, 7).(strstrt(commits, "dirty") ? "*" : "").(words(commits) > 1 ? sprintf(" and %d more", words(commits) - 1) : "")
  days = word(days, 1).(words(days) > 1 ? " to ".word(days, words(days)) : "")
  foot = meta("machine")."  |  ".foot."  |  ".days."  |  ".commits
  set label 1000 foot at screen 0.995, screen 0.16 / H right font F.",5.5" tc rgb GREY noenhanced

}
set encoding utf8
set border 3 lw 0.6 lc rgb GREY
set tics nomirror out scale 0.4 tc rgb GREY font F.",7"
set xtics offset 0, 0.4
set ytics offset 0.5, 0
set grid ytics lw 0.5 lt 1 lc rgb LIGHT
if (FORMAT eq "dumb") { unset grid }
set bars 0.4
# Four to eight ticks at round numbers on an axis from 0 to x.
decade(x) = 10.0 ** floor(log10(x))
tick_step(x) = decade(x) * (x < 1.6 * decade(x) ? 0.2 : x < 4 * decade(x) ? 0.5 : x < 8 * decade(x) ? 1 : 2)
set key font F.",7" samplen 1.6 spacing 1.1
# Part i of "a/b/c".
part(p, i) = word(system("echo '".p."' | tr / ' '"), i)
