#!/usr/bin/env bash
# report.sh ROWS.csv... -- paper/out/index.html: every figure, table and claim on one page.
#
# One file without anything beside it: the SVGs are inlined. It holds what has been drawn and measured
# for the given rows (`make figures tables` draws); what is missing is said. Readable on a phone, in
# print, light and dark.
set -euo pipefail
cd "$(dirname "$0")/.."
longca=${LONGCA:-build/longca}
if [ $# -lt 1 ]; then
  sed -n '2,6s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi

out=paper/out/index.html
mkdir -p paper/out
figures="fig1 fig2 fig3 fig4 fig5 fig6 fig7 fig8 fig9 fig10 fig11 fig12 fig13 fig14 fig15 fig16 fig17 fig18 fig19 fig20 fig21 fig22 fig23"

open="open_a open_b open_c open_c_rate open_d"

escape() { sed 's/&/\&amp;/g; s/</\&lt;/g; s/>/\&gt;/g'; }

. figures/place.sh

# What is said of the rows of a file, beside where they are drawn.
describe() {
  place_of "$1"
  tag="measured here, on $machine" class=here
  case $1 in *data/recorded/*) tag="recorded on $machine, not here" class=recorded ;; esac
  case $profile in
    cpu | smoke) tag="$tag: CPU engine at small sizes, no evidence about GPUs" ;;
    *) tag="$tag: $profile profile" ;;
  esac
}

# Ids are made unique, so that the points of one figure are not drawn with those of another.
inline_svg() { # FILE ID TITLE
  awk -v p="$2-" -v title="$3" '
    /^<svg/ { on = 1; print "<svg role=\"img\" aria-label=\"" title "\""; next }
    !on || /^<desc>/ { next }
    /^<title>/ { print "<title>" title "</title>"; next }
    { gsub(/id=\x27/, "&" p); gsub(/id="/, "&" p); gsub(/href=\x27#/, "&" p); gsub(/url\(#/, "&" p); gsub(/url\(\x27#/, "&" p); print }' "$1"
}

figure_section() {
  local fig=$1 script=figures/$1.gp title caption csv any=0
  title=$(sed -n 's/^#title //p' "$script" | escape)
  title=${title:-Figure ${fig#fig}}
  printf '<section id="%s"><h3>%s</h3>\n' "$fig" "$title"
  caption=$(sed -n 's/^#caption //p' "$script" | escape)
  printf '<p>%s</p>\n' "$caption"
  if ! grep -q '^#run ' "$script"; then
    if [ -e "figures/out/common/$fig.svg" ]; then
      printf '<figure><div class="plot">'
      inline_svg "figures/out/common/$fig.svg" "$fig" "$title"
      printf '</div></figure>\n'
      any=1
    fi
  else
    for csv in "${rows[@]}"; do
      describe "$csv"
      local base=$folder/$fig-$profile
      [ -e "$base.svg" ] || continue
      any=1
      printf '<figure class="%s"><div class="plot">' "$class"
      inline_svg "$base.svg" "$fig-$class-${machine//[^A-Za-z0-9]/}-$profile" "$title, $machine, $profile"
      printf '</div><figcaption>%s. Points are medians; bars are the 95 %% interval of the median, or the range over several masks.' "$tag"
      printf ' Numbers: <code>%s.dat</code></figcaption>\n' "$base"
      if grep -q '^#reason' "$base.dat"; then
        printf '<details><summary>Points without a value</summary><ul>\n'
        sed -n 's/^#reason [^ ]* \([^ ]*\) \([^:]*\): \(.*\)/\1, \2: \3/p' "$base.dat" | sort | uniq -c |
          sed 's/^ *\([0-9]*\) \(.*\)/\2 (\1 panels)/' | escape | sed 's/.*/<li>&<\/li>/'
        printf '</ul></details>\n'
      fi
      printf '</figure>\n'
    done
  fi
  [ $any = 1 ] || printf '<p class="note">Not drawn yet.</p>\n'
  printf '<p class="how"><code>make %s</code></p></section>\n' "$fig"
}

table_section() {
  local table=$1 n=${1#table} csv any=0
  printf '<section id="%s"><h3>Table %s</h3>\n' "$table" "$n"
  case $n in
    1 | 2)
      if [ -e "figures/out/common/$table.html" ]; then
        any=1
        printf '<div class="scroll">'
        cat "figures/out/common/$table.html"
        [ ! -e "figures/out/common/$table-reasons.html" ] || cat "figures/out/common/$table-reasons.html"
        printf '</div>\n'
      fi
      ;;
    *)
      for csv in "${rows[@]}"; do
        describe "$csv"
        [ -e "$folder/$table-$profile.html" ] || continue
        any=1
        printf '<div class="scroll %s">' "$class"
        cat "$folder/$table-$profile.html"
        printf '</div><p class="note">%s.</p>\n' "$tag"
      done
      ;;
  esac
  [ $any = 1 ] || printf '<p class="note">Not made yet.</p>\n'
  printf '<p class="how"><code>make %s</code></p></section>\n' "$table"
}

# rows_section TITLE NOTE SCRIPT ARGUMENT: a table that figures/SCRIPT makes of rows, for those that have it.
rows_section() {
  local csv table
  for csv in "${rows[@]}"; do
    table=$("figures/$3" "$csv" "$4" html 2>/dev/null) || continue
    describe "$csv"
    printf '<section><h3>%s</h3>\n<div class="scroll %s">%s</div>' "$1" "$class" "$table"
    printf '<p class="note">%s. %s <code>figures/%s %s</code></p></section>\n' "$tag" "$2" "$3" "$csv"
  done
}

claims_section() {
  local csv
  for csv in "${rows[@]}"; do
    describe "$csv"
    printf '<h3>By the rows %s</h3>\n<div class="scroll claims %s">' "$tag" "$class"
    "$longca" claims "$csv" --format html | sed 's/<td>\(HOLDS\|FAILS\|NOT MEASURED\)<\/td>/<td class="\1">\1<\/td>/; s/class="NOT MEASURED"/class="NM"/'
    printf '</div>\n'
  done
}

environment_section() {
  local csv
  for csv in "${rows[@]}"; do
    describe "$csv"
    printf '<details><summary>%s, profile %s: %s rows, commit %s</summary>\n' "$machine" "$profile" \
      "$(grep -vc '^#' "$csv")" "$("$longca" show "$csv" --columns commit --format csv | tail -n +2 | sort -u | tr '\n' ' ' | escape)"
    if [ -e "${csv%.csv}.env.json" ]; then
      printf '<pre>'
      escape <"${csv%.csv}.env.json"
      printf '</pre>'
    else
      printf '<p class="note">No environment was recorded beside these rows.</p>'
    fi
    printf '</details>\n'
  done
}

rows=("$@")
{
  cat paper/head.html
  printf '<nav><a href="#figures">Figures</a> <a href="#tables">Tables</a> <a href="#open">Open questions</a> <a href="#claims">Claims</a> <a href="#environment">Environment</a>\n<div>'
  for fig in $figures; do printf '<a href="#%s">%s</a> ' "$fig" "${fig#fig}"; done
  printf '</div></nav>\n<main>\n<h2 id="figures">Figures</h2>\n'
  for fig in $figures; do figure_section "$fig"; done
  rows_section 'Four ranks against one' \
    'TFLOP/s of one GPU alone and of a rank, for the same sequence; where the difference goes, in microseconds.' \
    scaling.sh 4
  rows_section 'Rates over the tiles that masks touch' '16K tokens, dimension 128; of_full: against fa3 on FULL.' \
    tiles.sh 16384
  printf '<h2 id="tables">Tables</h2>\n'
  for table in table1 table2 table3 table4 table5 table6 table7 table8; do table_section "$table"; done
  printf '<h2 id="open">Open questions</h2>\n<p>What the paper leaves open, and what this tree has to say to it.</p>\n'
  for fig in $open; do figure_section "$fig"; done
  printf '<h2 id="claims">Claims</h2>\n<p>The 26 claims of the paper, each with the relation that would confirm it. A claim about GPUs is judged by rows of GPUs alone.</p>\n'
  claims_section
  printf '<p class="how"><code>make claims</code></p>\n<h2 id="environment">Environment</h2>\n'
  environment_section
  printf '<p class="how">This page: <code>make figures tables report</code></p>\n</main></body></html>\n'
} >"$out.tmp"
mv "$out.tmp" "$out"
printf '  %-8s %s\n' REPORT "$out"
