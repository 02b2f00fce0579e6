#!/usr/bin/env bash
# draw.sh [-t] FILE.csv|- FIG... -- draws figures from one machine's rows (- for those without rows).
#
# A figure is one script, figures/FIG.gp, whose head also says which rows it takes (#select). The block
# file that is drawn stays beside the figure. Drawn twice, every file has the same bytes: PDF alone
# holds a date, which is set to a fixed one. -t draws into the terminal instead.
# Exit code 1 when a figure lacks points; it says which.
set -euo pipefail
cd "$(dirname "$0")/.."
longca=${LONGCA:-build/longca}
text=0
if [ "${1:-}" = -t ]; then
  text=1
  shift
fi
if [ $# -lt 2 ]; then
  sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
rows=$1
shift

. figures/place.sh
place_of "$rows"
mkdir -p "$folder"

# gnuplot writes many empty groups and one font name; readers' devices have another of its metrics.
slim() {
  awk '/^<g fill="none"/ { held = held $0 "\n"; next }
       /^<\/g>$/ && held != "" { sub(/[^\n]*\n$/, "", held); next }
       { printf "%s", held; held = ""; print }' "$1" |
    sed 's/<tspan font-family="Liberation Sans" >\([^<]*\)<\/tspan>/\1/g; s/font-family="Liberation Sans"/font-family="Liberation Sans, Arial, Helvetica, sans-serif"/g' >"$1.slim"
  mv "$1.slim" "$1"
}

failed=0
for fig in "$@"; do
  script=figures/$fig.gp
  out=$folder/$fig$suffix
  dat=$out.dat
  if [ "$rows" = - ]; then
    data=$(sed -n "s/^#data //p" "$script")
    if [ -z "$data" ]; then
      dat=/dev/null
    elif ! (eval "$data") >"$dat"; then
      failed=1
      continue
    fi
  else
    select=$(sed -n 's/^#select //p' "$script")
    # The directive is shell words, quoted ones among them.
    eval "set -- $select"
    if ! why=$("$longca" select "$rows" "$@" 2>&1 >"$dat.tmp"); then
      rm -f "$dat.tmp" "$out".{svg,pdf,png} # what was drawn of other rows
      printf '  %-8s %s: %s\n' "missing" "$fig" "${why#longca select: }" >&2
      failed=1
      continue
    fi
    mv "$dat.tmp" "$dat"
  fi
  if [ $text = 1 ]; then
    gnuplot -e "FORMAT='dumb'; COLUMNS=${COLUMNS:-100}; dat='$dat'" "$script"
    continue
  fi
  done=1
  for format in svg pdf png; do
    if ! gnuplot -e "FORMAT='$format'; OUT='$out.$format.tmp'; dat='$dat'" "$script"; then
      rm -f "$out.$format.tmp" "$out".{svg,pdf,png}
      failed=1 done=0
      break
    fi
    case $format in
      pdf) # 14 digits for 14 digits, so the file's offsets stay valid
        LC_ALL=C sed -i 's/(D:[0-9]\{14\}/(D:20000101000000/' "$out.pdf.tmp" ;;
      svg) slim "$out.svg.tmp" ;;
    esac
    mv "$out.$format.tmp" "$out.$format"
  done
  [ $done = 0 ] || printf '  %-8s %s\n' DRAW "$out.svg .pdf .png"
done
exit $failed
