#!/usr/bin/env bash
# test.sh BINARY... -- runs cmocka test programs one after the other and sums them up.
#
# Prints what each failing test said and why a test was skipped, and ends with one line,
# "N passed, N failed, N skipped"; the exit code is 1 when anything failed. A program that crashes,
# leaves in the middle of a test, exceeds its time, or holds no test counts as one failure.
#   TEST_LIMIT_S   seconds one program may take (default 300)
set -u
if [ $# -eq 0 ]; then
  printf 'test.sh: no test program is named (make test TEST=word: does a path contain the word?).\n' >&2
  exit 2
fi
limit_s=${TEST_LIMIT_S:-300}
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive} # threads that spin at barriers starve each other
passed=0 failed=0 skipped=0

# Reads the log of a program; prints "passed failed skipped" and then what a reader should see of it.
# A test is open from its RUN line to its verdict; the lists that cmocka adds at the end are not read.
# shellcheck disable=SC2016 # awk's own dollars
summary='
  function note(text) { notes = notes text "\n" }
  function stop(what) { failed++; note("    FAILED   " what " (" how ")"); notes = notes said }
  /^\[ RUN      \] / { test = substr($0, 14); said = ""; open = 1; seen++; next }
  !open && /GROUP (SETUP|TEARDOWN)/ { failed++; note("    FAILED   " substr($0, 14)); next }
  open && $0 == "[       OK ] " test { passed++; open = 0; next }
  open && $0 == "[  SKIPPED ] " test {
    skipped++; open = 0
    sub(/^ +/, "", said); sub(/\n$/, "", said); gsub(/\n */, "; ", said)
    if (said == "") said = "no reason given"
    if (!times[said]++) { reason[++reasons] = said; first[said] = test }
    next
  }
  open && $0 == "[  FAILED  ] " test {
    failed++; open = 0
    note("    FAILED   " test); notes = notes said; next
  }
  { said = said "      " $0 "\n" }
  END {
    if (open) stop(test ": the program ended within it")
    else if (!seen && !failed) stop("no test ran")
    else if (rc && !failed) stop("every test passed, yet the program failed")
    for (i = 1; i <= reasons; i++) {
      more = times[reason[i]] - 1
      note("    skipped  " first[reason[i]] (more ? " and " more " more" : "") ": " reason[i])
    }
    printf "%d %d %d\n%s", passed, failed, skipped, notes
  }'

for program in "$@"; do
  log=$program.log
  begin=$EPOCHREALTIME
  timeout --kill-after=10 "$limit_s" "$program" >"$log" 2>&1 </dev/null
  rc=$?
  case $rc in
    124 | 137) how="time limit of $limit_s s" ;;
    *) how="exit code $rc" ;;
  esac
  seconds=$(awk -v a="$begin" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }')
  result=$(awk -v rc="$rc" -v how="$how" "$summary" "$log")
  read -r p f s <<<"${result%%$'\n'*}"
  verdict=ok
  [ "$f" -eq 0 ] || verdict=FAILED
  printf '  %-8s %-44s %4d passed %7s s\n' "$verdict" "${program#*/}" "$p" "$seconds"
  case $result in *$'\n'*) printf '%s\n' "${result#*$'\n'}" ;; esac
  [ "$f" -eq 0 ] || printf '    the whole log: %s\n' "$log"
  passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
done
printf '%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
[ "$failed" -eq 0 ] && [ $((passed + skipped)) -gt 0 ]
