#!/usr/bin/env bash
# tiles.sh ROWS.csv [SEQLEN [FORMAT]] -- rates over the tiles that a mask touches, against fa3 on FULL (16384, md).
#
# An engine computes whole tiles, so a mask with many borders has a lower rate over its visible area than FULL at the
# same efficiency. tiles: the share of the tiles' pairs that is visible; rate: TFLOP/s over the visible area, the mean
# over the n draws; over_tiles: over all pairs of the tiles; of_full: that over fa3's rate on FULL with the same
# heads, dimension, length and pass. must: what the rebuild has set itself for documents and heterogeneous masks.
set -euo pipefail
export LC_ALL=C
cd "$(dirname "$0")/.."
longca=${LONGCA:-build/longca}
if [ $# -lt 1 ] || ! [[ ${2:-16384} =~ ^[1-9][0-9]*$ ]]; then
  sed -n '2p' "$0" | sed 's/^# /usage: /' >&2
  exit 2
fi

# shellcheck disable=SC2016 # awk's own dollars
table='
  NR == 1 { next }
  { shape = $4 SUBSEP $5 SUBSEP $3 }
  $1 == "full" && $2 == "fa3" { full[shape] += $6; fulls[shape]++ }
  $8 + 0 > 0 { # awk: nan + 0 is not above 0
    k = $1 "," $2 "," $3 "," $4
    if (!n[k]++) { line[++lines] = k; of[k] = shape }
    rate[k] += $6; over[k] += $6 * $8 / $7; seen[k] += $7 / $8
  }
  END {
    print "mask,kernel,pass,heads,n,tiles,rate,over_tiles,of_full,must"
    for (i = 1; i <= lines; i++) {
      k = line[i]
      if (!(of[k] in full)) continue
      split(k, f, ",")
      must = f[3] != "bwd_det" && f[1] ~ /document|share|blockwise|global|prefix/ && f[2] ~ /^(fa3|flex|flashmask_v3|spans)$/ ? "0.85" : ""
      printf "%s,%d,%.3f,%.0f,%.0f,%.3f,%s\n", k, n[k], seen[k] / n[k], rate[k] / n[k], over[k] / n[k],
        over[k] / n[k] / (full[of[k]] / fulls[of[k]]), must
      any = 1
    }
    exit !any
  }'
rows=$("$longca" show "$1" --format csv --where "cp=none status=ok dim=128 seqlen=${2:-16384} mask!=uniform_block_sparse,variable_block_sparse" --columns \
  mask,kernel,pass,heads_q,seqlen,tflop_s,area,tile_area,heads_kv) || exit 2
file=$(mktemp)
trap 'rm -f "$file"' EXIT
if ! awk -F, -v OFS=, 'NR > 1 { $4 = $4 ":" $9 } { print }' <<<"$rows" | awk -F, "$table" >"$file"; then
  printf 'tiles.sh: %s has no rows with tile_area beside fa3 on FULL at %s tokens\n' "$1" "${2:-16384}" >&2
  exit 1
fi
"$longca" show --table "$file" --format "${3:-md}"
