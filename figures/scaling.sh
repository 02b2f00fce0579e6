#!/usr/bin/env bash
# scaling.sh ROWS.csv [RANKS [FORMAT]] -- the rate of a GPU in a job of RANKS (4) over that of one GPU alone (md).
#
# Compared are rows of one mask, draw, pass and whole length: 8K tokens a rank against all of them on one rank
# (longca run fig20 --set ranks=1 --set seqlen=32K). alone and rank: TFLOP/s of the one GPU and of one in the job, by
# the slowest; ratio: the mean over the n draws that both have. Times are means, in microseconds of a pass: comm,
# what no rank escapes waiting for transfers; skew, what ranks ahead of the slowest wait longer; rest, what else
# a pass takes beyond 1/RANKS of the one GPU's: kernels in steps and pieces, copies, launches, and a slowest
# rank behind the mean (skew at most).
# must: what the rebuild has set itself at 4 ranks.
set -euo pipefail
export LC_ALL=C
cd "$(dirname "$0")/.."
longca=${LONGCA:-build/longca}
if [ $# -lt 1 ] || ! [[ ${2:-4} =~ ^[1-9][0-9]*$ ]]; then
  sed -n '2p' "$0" | sed 's/^# /usage: /' >&2
  exit 2
fi
ranks=${2:-4}

# shellcheck disable=SC2016 # awk's own dollars
table='
  function must(mask, pass, cp) {
    if (cp == "ring_allgather" || cp ~ /context_first/ || ranks != 4) return ""
    if (mask ~ /document/) return cp == "ring_p2p" ? 0.60 : 0.85
    if (cp != "ring_p2p") return 0.88
    return mask == "causal" ? 0.85 : pass == "fwd" ? 0.90 : 0.88
  }
  NR == 1 || $14 != "ok" { next }
  {
    whole = $1 SUBSEP $2 SUBSEP $3 SUBSEP $4 SUBSEP $5 SUBSEP $6 SUBSEP $7 SUBSEP $8
    if ($10 == 1) { one[whole] = $11; one_us[whole] = $15; next }
    key = whole SUBSEP $9
    if (!(key in rate)) { order[++n] = key; of[n] = whole; row[n] = $1 "," $2 "," $9 }
    rate[key] = $11; comm[key] = $12; skew[key] = $13; us[key] = $15
  }
  END {
    for (i = 1; i <= n; i++) {
      if (!(of[i] in one)) continue
      k = row[i]
      if (!m[k]++) line[++lines] = k
      alone[k] += one[of[i]]; here[k] += rate[order[i]]; ratio[k] += rate[order[i]] / one[of[i]]
      waited[k] += comm[order[i]]; skewed[k] += skew[order[i]]
      rest[k] += us[order[i]] - one_us[of[i]] / ranks - comm[order[i]]
    }
    print "mask,pass,strategy,n,alone,rank,ratio,must,comm_us,skew_us,rest_us"
    for (i = 1; i <= lines; i++) {
      k = line[i]; split(k, f, ",")
      printf "%s,%d,%.0f,%.0f,%.3f,%s,%.0f,%.0f,%.0f\n", k, m[k], alone[k] / m[k],
        here[k] / m[k], ratio[k] / m[k], must(f[1], f[2], f[3]), waited[k] / m[k], skewed[k] / m[k], rest[k] / m[k]
    }
    if (!lines) exit 1
  }'
rows=$("$longca" show "$1" --format csv --where "cp!=none ranks=1,$ranks" --columns \
  mask,pass,kernel,heads_q,heads_kv,dim,seqlen,draw,cp,ranks,tflop_s,comm_us,skew_us,status,time_us) || exit 2
file=$(mktemp)
trap 'rm -f "$file"' EXIT
if ! awk -F, -v ranks="$ranks" "$table" <<<"$rows" >"$file"; then
  printf 'scaling.sh: %s has no row of %s ranks beside one of a single rank with the same mask and length\n' "$1" "$ranks" >&2
  exit 1
fi
"$longca" show --table "$file" --format "${3:-md}"
