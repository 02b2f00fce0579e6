# key.gp -- a key of the kernels in KEY laid out by hand as lines of text, the first at KEY_Y (screen).
# Ends with an empty plot, since gnuplot shows labels and arrows only with one.
set tmargin at screen 1; set bmargin at screen 0; set lmargin at screen 0; set rmargin at screen 1
set xrange [0:1]; set yrange [0:1]
FAILED = system("grep -c ' oom ' '".dat."'") + 0 > 0 ? " oom" : ""
kx = 0.35; ky = KEY_Y                       # kx in cm
do for [n = 1:words(KEY.FAILED)] {
  k = word(KEY.FAILED, n); said = k eq "oom" ? "out of memory" : label(k)
  width = 0.72 + 0.122 * strlen(said)       # cm at 7 pt
  if (kx + width > W) { kx = 0.35; ky = ky - 0.38 / H }
  if (k eq "oom") {
    set label 2000 + n "" at screen (kx + 0.3) / W, screen ky point pt 2 ps 0.5 lw 1.5 lc rgb GREY
  } else {
    set arrow 2000 + n from screen kx / W, screen ky to screen (kx + 0.6) / W, screen ky nohead lt value("LT_".k)
    set label 2000 + n "" at screen (kx + 0.3) / W, screen ky point lt value("LT_".k)
  }
  set label 3000 + n said at screen (kx + 0.7) / W, screen ky left font F.",7" noenhanced
  kx = kx + width + 0.45
}
unset key
plot NaN notitle
