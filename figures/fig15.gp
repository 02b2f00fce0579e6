# Figure 15: what standard attention keeps for its backward pass (study 3.3: 11bshd + 5bhs^2 + 2bshd).
#caption Activations that unfused attention keeps for its backward pass, in bytes at 2 bytes an element: 11bshd + 5bhs² + 2bshd (b batch, s length, h heads, d head dimension). The assignment to boxes is our reading. A fused kernel keeps the log-sum-exp, 4bhs bytes, in place of 5bhs².
W = 12.5; H = 6.6
load "figures/style.gp"
$boxes << EOD
1.1 2.6 1.5 0.8 0xdcebf5 "input x"
3.35 1.2 1.7 0.8 0xdcebf5 "Q"
3.35 2.6 1.7 0.8 0xdcebf5 "K"
3.35 4.0 1.7 0.8 0xdcebf5 "V"
5.9 1.9 1.9 0.8 0xf1f1f1 "Q K^T"
8.2 1.9 1.7 0.8 0xf7ddd0 "softmax"
10.6 1.9 1.9 0.8 0xf7ddd0 "dropout"
10.6 4.0 1.9 0.8 0xdcebf5 "O = P V"
8.2 4.0 1.7 0.8 0xf1f1f1 "projection"
5.9 4.0 1.9 0.8 0xdcebf5 "dropout, y"
EOD
$bytes << EOD
1.1 3.22 "2bshd"
3.35 1.82 "2bshd"
3.35 3.22 "2bshd"
3.35 4.62 "2bshd"
8.2 2.52 "2bhs^2"
10.15 2.52 "1bhs^2 + 2bhs^2"
10.6 4.62 "2bshd"
5.9 4.62 "1bshd + 2bshd"
EOD
$arrows << EOD
1.85 2.4 0.63 -1.0
1.85 2.6 0.63 0
1.85 2.8 0.63 1.0
4.2 1.3 0.73 0.45
4.2 2.5 0.73 -0.45
6.85 1.9 0.48 0
9.05 1.9 0.58 0
10.6 2.75 0 0.83
9.65 4.0 -0.58 0
7.35 4.0 -0.48 0
EOD
unset border; unset tics; unset grid; unset key
set lmargin at screen 0; set rmargin at screen 1; set tmargin at screen 1; set bmargin at screen 0
set xrange [0:W]; set yrange [H:0]
set style arrow 1 head filled size screen 0.012,18 lw 1.1 lc rgb GREY
set arrow 1 from 3.35, 4.85 to 3.35, 5.15 nohead lw 1.1 lc rgb GREY
set arrow 2 from 3.35, 5.15 to 11.9, 5.15 nohead lw 1.1 lc rgb GREY
set arrow 3 from 11.9, 5.15 to 11.9, 4.0 nohead lw 1.1 lc rgb GREY
set arrow 4 from 11.9, 4.0 to 11.58, 4.0 as 1
set label 1 "{/:Bold What attention keeps for its backward pass}" at 0.35, 0.4 left font F.",8"
set label 2 "linear in s: 11bshd + 2bshd" at 0.35, 5.85 left font F.",7.5" tc rgb "#0072b2"
set label 3 "quadratic in s: 5bhs^2, which fused kernels replace by 4bhs (log-sum-exp)" at 0.35, 6.25 left font F.",7.5" tc rgb "#b34700"
plot $boxes using 1:2:($1-$3/2):($1+$3/2):($2-$4/2):($2+$4/2):5 with boxxyerror fs solid border lc rgb "#9a9a9a" lw 0.6 fc rgb variable, \
     $boxes using 1:2:6 with labels center font F.",7.5" notitle, \
     $bytes using 1:2:3 with labels center font F.",6.5" tc rgb GREY notitle, \
     $arrows using 1:2:3:4 with vectors as 1
