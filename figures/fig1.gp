# Figure 1: the parts of this benchmark and how a number travels through them (our own diagram).
#caption How a number comes about: a published kernel is a mask representation run by an engine; one row per point feeds every figure, table and claim.
W = 12.5; H = 9.4 # a label's first line stands at its y: half of the others' height goes off
load "figures/style.gp"
# x y width height (cm, y down) colour lines text
$boxes << EOD
1.95 0.85 3.3 1.1 0xdcebf5 2 "{/:Bold masks}\n12 static, 2 dynamic"
1.95 2.35 3.3 1.1 0xdcebf5 2 "{/:Bold document lengths}\nPile, ProLong 64K, 512K"
6.25 0.85 3.7 1.1 0xe6f3ee 2 "{/:Bold representation}\nhow a kernel is told the mask"
10.55 0.85 3.3 1.1 0xfbeed8 2 "{/:Bold engine}\nwhat runs it"
6.25 2.72 3.7 1.84 0xf2f9f6 3 "dense   band   columns\nblock map   block list\nvariable blocks"
10.55 2.72 3.3 1.84 0xfdf6ea 3 "cpu: C11, OpenMP\nmma: sm80 and later\nwgmma: sm90a"
8.4 4.75 8.0 0.95 0xf1f1f1 1 "{/:Bold kernel registry}: naive, sdpa, fa2, fa3, cudnn, flex, flashmask, vsa, ..."
1.95 4.75 3.3 0.95 0xdcebf5 1 "{/:Bold experiments}  *.exp"
6.25 6.35 11.9 1.0 0xf7e4ea 2 "{/:Bold runner}: one worker process a point  -  draw mask, check against the reference, then time\n{/:Bold context parallelism}: five schedules over loopback, Open MPI and NCCL, with any kernel inside"
6.25 7.85 5.2 0.8 0xffffff 1 "{/:Bold rows}: one CSV a machine and profile"
1.95 8.9 2.6 0.7 0xf1f1f1 1 "figures"
6.25 8.9 2.6 0.7 0xf1f1f1 1 "tables"
10.55 8.9 2.6 0.7 0xf1f1f1 1 "claims, report"
EOD
$arrows << EOD
3.6 0.85 0.8 0
1.95 1.8 0 -0.4
6.25 1.4 0 0.4
10.55 1.4 0 0.4
6.25 3.64 0 0.63
10.55 3.64 0 0.63
8.4 5.225 0 0.62
1.95 5.225 0 0.62
6.25 6.85 0 0.6
3.65 8.05 -0.7 0.52
8.85 8.05 0.7 0.52
6.25 8.25 0 0.27
EOD
unset border; unset tics; unset grid; unset key
set lmargin at screen 0; set rmargin at screen 1; set tmargin at screen 1; set bmargin at screen 0
set xrange [0:W]; set yrange [H:0]
set style arrow 1 head filled size screen 0.012,18 lw 1.1 lc rgb GREY
set label 1 "{/:Bold x}" at 8.42, 0.85 center font F.",10"
plot $boxes using 1:2:($1-$3/2):($1+$3/2):($2-$4/2):($2+$4/2):5 with boxxyerror fs solid border lc rgb "#9a9a9a" lw 0.6 fc rgb variable, \
     $boxes using 1:($2-0.14*($6-1)):7 with labels center font F.",7" notitle, \
     $arrows using 1:2:3:4 with vectors as 1
