#!/usr/bin/env bash
# make.sh WHAT... -- measures what figures and tables lack on this machine, then draws them.
#
# WHAT is figN, open_X, tableN, claims or report. From the environment (set by figures.mk):
#   PROFILE  scale of the measurements: cpu, quick, paper, smoke     B     build folder
#   DATA     all: this machine's rows and beside them every machine's in data/recorded
#            fresh: this machine's alone;  recorded: those in data/recorded alone, nothing is measured
#   DUMB=1   draw into the terminal
# Exit code 1 when a figure of this machine lacks points, 2 for a bad setting.
set -euo pipefail
cd "$(dirname "$0")/.."
export LONGCA=${LONGCA:-${B:-build}/longca}
profile=${PROFILE:-cpu} data=${DATA:-all}
case $data in
  all | fresh | recorded) ;;
  *)
    printf "make.sh: DATA=%s is none of all, fresh, recorded\n" "$data" >&2
    exit 2
    ;;
esac

for what in "$@"; do
  case $what in
    claims | report | table[1-8]) ;;
    *)
      if [ ! -e "figures/$what.gp" ] || ! grep -q '^#caption ' "figures/$what.gp"; then
        printf "make.sh: unknown %s; there are fig1 to fig23, open_a to open_d, table1 to table8, claims, report\n" "$what" >&2
        exit 2
      fi
      ;;
  esac
done

# The experiments that give the rows of a figure or table; tables that share rows share experiments.
experiments_of() {
  case $1 in
    table1 | table2) ;;
    table6) echo table3 ;;
    table7) echo table4 ;;
    table8) echo table5 ;;
    table*) echo "$1" ;;
    fig* | open_*) sed -n 's/^#run //p' "figures/$1.gp" ;;
  esac
}

free=() figs=() tables=() experiments=()
for what in "$@"; do
  for e in $(experiments_of "$what"); do
    case " ${experiments[*]} " in *" $e "*) ;; *) experiments+=("$e") ;; esac
  done
  case $what in
    fig* | open_*) if grep -q '^#run ' "figures/$what.gp"; then figs+=("$what"); else free+=("$what"); fi ;;
    table*) tables+=("$what") ;;
  esac
done

recorded=() fresh=
if [ "$data" != fresh ]; then
  for csv in data/recorded/*/*.csv; do [ ! -e "$csv" ] || recorded+=("$csv"); done
fi
if [ "$data" != recorded ]; then
  # The program names the file: a profile for the host goes under another name than one for the GPU.
  fresh=$("$LONGCA" run smoke --profile "$profile" --dry-run 2>&1 | sed -n 's|^.*; rows in ||p') || true
  if [ -z "$fresh" ]; then
    "$LONGCA" run smoke --profile "$profile" --dry-run >&2 || exit 2
    exit 2
  fi
  fresh=${fresh#"$PWD"/}
  if [ ${#experiments[@]} -gt 0 ]; then
    [ "$profile" != cpu ] || printf '%s\n' "  The cpu profile: the C engine at small sizes. It shows that everything works; it says nothing about GPUs."
    mkdir -p data/fresh
    exec 9>data/fresh/.lock # make -j: one figure measures at a time
    flock 9
    "$LONGCA" run "${experiments[@]}" --profile "$profile" 9>&-
    exec 9>&-
  fi
fi

flag=()
[ "${DUMB:-0}" = 0 ] || flag=(-t)
failed=0
[ ${#free[@]} = 0 ] || figures/draw.sh "${flag[@]}" - "${free[@]}" || failed=1
for csv in $fresh "${recorded[@]}"; do
  case $csv in data/recorded/*) printf '  recorded on %s, not here:\n' "$(basename "$(dirname "$csv")")" ;; esac
  [ ${#figs[@]} = 0 ] || figures/draw.sh "${flag[@]}" "$csv" "${figs[@]}" || [ "$csv" != "$fresh" ] || failed=1
  supported=() spread=()
  for t in "${tables[@]}"; do
    case $t in table[12]) supported+=("$t") ;; *) spread+=("$t") ;; esac
  done
  [ "$csv" != "${fresh:-${recorded[0]:-}}" ] || [ ${#supported[@]} = 0 ] || figures/table.sh - "${supported[@]}" || failed=1
  [ ${#spread[@]} = 0 ] || figures/table.sh "$csv" "${spread[@]}" || [ "$csv" != "$fresh" ] || failed=1
done

rows=()
for csv in $fresh "${recorded[@]}"; do [ ! -e "$csv" ] || rows+=("$csv"); done
for what in "$@"; do
  case $what in
    claims | report)
      if [ ${#rows[@]} = 0 ]; then
        printf 'make.sh: nothing has been measured here (make figures) and nothing is in data/recorded\n' >&2
        exit 1
      fi
      ;;&
    claims) "$LONGCA" claims "${rows[@]}" ;;
    report) paper/report.sh "${rows[@]}" ;;
  esac
done
if [ -z "$fresh" ] && [ ${#recorded[@]} = 0 ]; then
  printf '  nothing is in data/recorded yet\n' >&2
  [ $((${#figs[@]} + ${#tables[@]})) = 0 ] || failed=1
fi
exit $failed
