#!/usr/bin/env bash
# record.sh MINUTES OUT [RUN-OPTION...] -- measures this machine's GPU for so many minutes and leaves in OUT
# what there is to keep. Run it again for more: it goes on where it was.
#
# Order is by worth. First every kernel is tested (a third of the time at most); one that fails its test is
# left out of what follows and listed. Then the experiments, the most telling first; the kernels of a
# comparison are measured in one run (longca run --together), because a GPU that is limited by power gives
# other rates an hour later. Between them the rate of a bf16 GEMM, for the same reason.
#
#   OUT   PROFILE.csv and PROFILE.env.json, the rows and the machine   gemm.csv, GEMM rates with their times
#         tests.tsv, what became of each kernel's test                 logs.tar.gz, of what failed
#         summary.csv, TFLOP/s of each kernel, against cuDNN and the last GEMM before it
#   RUN-OPTION...  for every longca run: --set 'seqlen=1K'
# From the environment:
#   LONGCA    the program (build/longca)        GPU_TEST  its tests (build/kernels/gpu_test)
#   PROFILE   scale (quick)                     DATA      where rows are kept (data/fresh)
#   STAGES    experiments in order, a comma between those of one stage
#   TEST_S    longest test of a kernel (120)    GEMM      its size (8192)
# Exit code 1 when a kernel failed its test or a row is wrong or a crash, 2 for bad input.
set -euo pipefail
export LC_ALL=C
LONGCA=${LONGCA:-build/longca} GPU_TEST=${GPU_TEST:-build/kernels/gpu_test}
PROFILE=${PROFILE:-quick} DATA=${DATA:-data/fresh} TEST_S=${TEST_S:-120} GEMM=${GEMM:-8192}
STAGES=${STAGES:-race open_c fig3 fig4,table3,table4,open_a fig8 fig18,determinism
  fig9,fig10,fig11,fig12,fig13,fig14 table5,variable}
RESERVE_S=15 # for the summary

bad() {
  printf 'record.sh: %s\n' "$1" >&2
  exit 2
}

[ $# -ge 2 ] || bad 'usage: record.sh MINUTES OUT [RUN-OPTION...]'
[[ $1 =~ ^[1-9][0-9]*$ ]] || bad "MINUTES is a whole number above 0, not '$1'"
[ -x "$LONGCA" ] || bad "there is no program $LONGCA (make build, or LONGCA=)"
end=$((SECONDS + $1 * 60 - RESERVE_S)) out=$2
tests_end=$((SECONDS + $1 * 20))
shift 2
options=(--profile "$PROFILE" --data "$DATA" "$@")
"$LONGCA" bench --gemm 8 --rounds 1 >/dev/null || exit 2 # says what is missing
rows=$("$LONGCA" run smoke "${options[@]}" --dry-run | sed -n 's|^.*; rows in ||p')
[ -n "$rows" ] || exit 2
mkdir -p "$out" "$(dirname "$rows")"
kept=$(dirname "$rows") # beside the rows: what a later run goes on with
tests=$kept/tests.tsv gemm=$kept/gemm.csv logs=$kept/log
mkdir -p "$logs"
touch "$tests" "$gemm"
left() { echo $((end - SECONDS)); }

gemm_rate() {
  local lines
  lines=$(timeout 60 "$LONGCA" bench --gemm "$GEMM" --rounds 20 --csv) || return 0
  [ -s "$gemm" ] || head -1 <<<"$lines" >"$gemm"
  tail -n +2 <<<"$lines" >>"$gemm"
}

# What there is goes to OUT after every part, as a machine on loan may go at any moment.
keep() {
  local file
  for file in "$rows" "${rows%.csv}.env.json" "$tests" "$gemm"; do
    [ ! -s "$file" ] || cp "$file" "$out/"
  done
  [ -z "$(ls -A "$logs")" ] || tar -czf "$out/logs.tar.gz" -C "$kept" log
}

# ---- every kernel against the reference, the fastest engines first

version=$([ ! -x "$GPU_TEST" ] || cksum <"$GPU_TEST" | cut -d' ' -f1)
test_kernel() { # test_kernel NAME: a line of tests.tsv
  local begin=$SECONDS log=$logs/test-$1.txt rc=0 verdict
  LONGCA_TEST_QUICK=${LONGCA_TEST_QUICK:-1} LONGCA_TEST_KERNEL=$1 \
    timeout -k 5 "$TEST_S" "$GPU_TEST" >"$log" 2>&1 </dev/null || rc=$?
  case $rc in
    0) verdict=ok ;;
    124 | 137) verdict=timeout ;;
    *) verdict=failed ;;
  esac
  if [ $rc -eq 0 ] && ! grep -q "^\[       OK \] $1: masks" "$log"; then verdict=skipped; fi
  [ $verdict != ok ] || rm -f "$log"
  printf '%s\t%s\t%d\t%s\n' "$1" $verdict $((SECONDS - begin)) "$version" >>"$tests"
  printf '  test     %-14s %s in %d s\n' "$1" $verdict $((SECONDS - begin))
}

gemm_rate
# name, place, ..., engine: awk sorts by engine.
kernels=$("$LONGCA" list kernels --csv | awk -F, '$2 == "device" {
  print ($4 == "wgmma" ? 1 : $4 == "cudnn" ? 2 : $4 == "mma" ? 3 : 4), $1 }' |
  sort -s -n -k1,1 | cut -d' ' -f2)
if [ -n "$version" ]; then
  for kernel in $kernels; do
    awk -F'\t' -v k="$kernel" -v v="$version" \
      '$1 == k && $4 == v { done = 1 } END { exit !done }' "$tests" && continue
    [ $SECONDS -lt $tests_end ] || break
    test_kernel "$kernel"
  done
else
  printf '  test     there is no %s, so no kernel is tested beforehand\n' "$GPU_TEST"
fi
keep
wrong=$(awk -F'\t' -v v="$version" '$4 == v { now[$1] = $2 }
  END { for (k in now) if (now[k] == "failed" || now[k] == "timeout") print k }' "$tests" | sort | paste -sd,)
[ -z "$wrong" ] || options+=(--only "kernel!=$wrong")

# ---- the experiments

failed=0
for stage in $STAGES; do
  [ "$(left)" -gt 0 ] || break
  IFS=, read -ra experiments <<<"$stage"
  minutes=$(awk -v s="$(left)" 'BEGIN { printf "%.2f", s / 60 }')
  rc=0
  # A point that outlives the time is given up: its comparison is begun anew another time.
  timeout -s INT -k 10 $(($(left) + RESERVE_S / 2)) "$LONGCA" run "${experiments[@]}" "${options[@]}" \
    --together --minutes "$minutes" || rc=$?
  case $rc in 0 | 124) ;; 2) exit 2 ;; *) failed=1 ;; esac
  gemm_rate
  keep
done

# ---- the summary

# shellcheck disable=SC2016 # awk's own dollars
summary='
  FILENAME ~ /gemm/ { if (FNR > 1) { at[++gemms] = $1; rate[gemms] = $5 } next }
  FNR == 1 { next }
  {
    group = $1 "," $4 ":" $5 "," $6 "," $7 "," $8
    key = group SUBSEP $2
    if (!(group in seen)) { seen[group] = ++groups; name[groups] = group }
    if (!((group, $2) in member)) {
      member[group, $2] = ++members[group]
      kernel[group, members[group]] = $2
    }
    state[key, $3] = state[key, $3] == "ok" ? "ok" : $9
    if ($9 != "ok") next
    n[key, $3]++
    sum[key, $3] += $10
    mhz[key, $3] += $11
    for (g = 1; g < gemms && at[g + 1] <= $12; g++) ;
    if (gemms) share[key, $3] += $10 / rate[g]
  }
  function mean(x, key, pass) { return x[key, pass] / n[key, pass] }
  function value(key, pass) {
    return n[key, pass] ? sprintf("%.4g", mean(sum, key, pass)) : state[key, pass]
  }
  function against(key, other, pass) {
    if (!n[key, pass] || !n[other, pass]) return ""
    return sprintf("%.2f", mean(sum, key, pass) / mean(sum, other, pass))
  }
  function of_gemm(key, pass) {
    return n[key, pass] && gemms ? sprintf("%.2f", mean(share, key, pass)) : ""
  }
  END {
    printf "mask,heads,seqlen,block,ratio,kernel,fwd_tflop_s,bwd_tflop_s,"
    print "fwd_of_cudnn,bwd_of_cudnn,fwd_of_gemm,bwd_of_gemm,draws,sm_mhz"
    for (i = 1; i <= groups; i++)
      for (j = 1; j <= members[name[i]]; j++) {
        key = name[i] SUBSEP kernel[name[i], j]
        other = name[i] SUBSEP "cudnn"
        clock = n[key, "fwd"] ? sprintf("%.0f", mean(mhz, key, "fwd")) : ""
        print name[i] "," kernel[name[i], j] "," value(key, "fwd") "," value(key, "bwd") "," \
          against(key, other, "fwd") "," against(key, other, "bwd") "," of_gemm(key, "fwd") "," \
          of_gemm(key, "bwd") "," n[key, "fwd"] + 0 "," clock
      }
  }'
if [ -s "$rows" ] && [ "$(wc -l <"$rows")" -gt 1 ]; then
  "$LONGCA" show "$rows" --format csv \
    --columns mask,kernel,pass,heads_q,heads_kv,seqlen,block,ratio,status,tflop_s,sm_mhz_median,utc |
    awk -F, "$summary" "$gemm" - >"$out/summary.csv"
  "$LONGCA" show --table "$out/summary.csv"
fi
[ -z "$wrong" ] || printf 'failed its test, and is left out: %s\n' "$wrong"
printf '%s rows in %s\n' "$([ ! -s "$rows" ] || tail -n +2 "$rows" | wc -l)" "$out"
[ -z "$wrong" ] && [ $failed -eq 0 ]
