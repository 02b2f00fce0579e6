#!/usr/bin/env bash
# check.sh ROWS.csv FIG... -- are figures drawn from these rows the same, byte for byte, when drawn
# again, and does a figure whose points are missing fail and say so? Exit code 1 when not.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ $# -lt 2 ]; then
  sed -n '2,3s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
rows=$1
shift
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0

fail() {
  printf '  %-8s %s\n' FAILED "$1" >&2
  failed=1
}

# In a folder of its own, named as data/fresh/<machine> would be.
mkdir -p "$work/check-$$"
name=$work/check-$$/$(basename "$rows")
out=figures/out/check-$$
trap 'rm -rf "$work" "$out"' EXIT
cp "$rows" "$name"
figures/draw.sh "$name" "$@" >/dev/null
cp -r "$out" "$work/first"
figures/draw.sh "$name" "$@" >/dev/null
for file in "$work"/first/*; do
  cmp -s "$file" "$out/${file##*/}" || fail "${file##*/} differs when it is drawn again"
done

# Without rows a figure must not be drawn.
head -n 1 "$rows" >"$name"
for fig in "$@"; do
  rm -f "$out/$fig"-*
  if figures/draw.sh "$name" "$fig" >/dev/null 2>"$work/said"; then
    fail "$fig is drawn from no rows"
  elif ! grep -q "$fig" "$work/said"; then
    fail "$fig fails without saying what is missing"
  elif ls "$out/$fig"-*.svg >/dev/null 2>&1; then
    fail "$fig leaves a picture behind though its rows are missing"
  fi
done
[ $failed = 1 ] || printf '  %-8s %s: same bytes when drawn again, refused without rows\n' CHECK "$*"
exit $failed
