#!/usr/bin/env bash
# table.sh ROWS.csv|- TABLE... -- the paper's tables beside ours, as .txt .md .tex .html, into
# figures/out/<machine>/. Tables 1 and 2 say what is supported (- for the rows: the program knows);
# tables 3 to 8 set the printed numbers (data/published) over ours. Exit code 1 when ours lack points.
set -euo pipefail
cd "$(dirname "$0")/.."
longca=${LONGCA:-build/longca}
if [ $# -lt 2 ]; then
  sed -n '2,5s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
rows=$1
shift

. figures/place.sh
place_of "$rows"
mkdir -p "$folder"

# Writes $out in every format by running "$@" --format F, and shows the text.
emit() {
  local format
  for format in text md tex html; do
    "$@" --format "$format" >"$out.tmp"
    mv "$out.tmp" "$out.${format/text/txt}"
  done
  cat "$out.txt"
  printf '  %-8s %s\n\n' TABLE "$out.txt .md .tex .html"
}

# Paper against the registry: "yes" or "no" where both agree, else both.
table1() {
  "$longca" list support --csv | awk -F, -v place="$1" '
    FNR == NR { if (/^#/) next
                if (!n) { for (i = 2; i <= NF; i++) kernel[i] = $i; n = NF; next }
                mask[++m] = $1; for (i = 2; i <= n; i++) paper[$1, kernel[i]] = $i; next }
    $4 == place { here[$1, $3] = $5 == "yes" && $6 == "yes" ? "yes" : $5 == "yes" ? "fwd" : "no" }
    END { printf "mask"; for (i = 2; i <= n; i++) printf ",%s", kernel[i]; print ""
      for (j = 1; j <= m; j++) { printf "%s", mask[j]
        for (i = 2; i <= n; i++) { p = paper[mask[j], kernel[i]]; h = here[mask[j], kernel[i]]; if (h == "") h = "not built"
          printf ",%s", p == h ? p : "paper " p "; here " h }
        print "" } }' data/published/table1.csv -
}

table2() {
  { "$longca" list support --csv --heads 8:8 | sed 's/^/mha,/'; "$longca" list support --csv --heads 8:1 | sed 's/^/gqa,/'; } |
  awk -F, -v place="$1" '
    FNR == NR { if (/^#/) next
                if (!n) { for (i = 2; i <= NF; i++) kernel[i] = $i; n = NF; next }
                row[++m] = $1; for (i = 2; i <= n; i++) paper[$1, i] = $i; next }
    $5 != place { next }
    { built[$4] = 1 }
    $6 == "yes" && $2 == "uniform_block_sparse" { uniform[$4] = 1; size[$4] = size[$4] (index(size[$4], $3) ? "" : (size[$4] == "" ? "" : ", ") $3) }
    $6 == "yes" && $2 == "variable_block_sparse" { variable[$4] = 1 }
    $6 == "yes" && $2 ~ /block_sparse/ && $1 == "gqa" { gqa[$4] = 1 }
    $7 == "yes" && $2 ~ /block_sparse/ { backward[$4] = 1 }
    END { printf "property,source"; for (i = 2; i <= n; i++) printf ",%s", kernel[i]; print ""
      for (j = 1; j <= m; j++) { printf "%s,paper", row[j]; for (i = 2; i <= n; i++) printf ",%s", paper[row[j], i]; print ""
        if (row[j] ~ /^(speed|memory overhead|GPU)$/) continue
        printf ",here"
        for (i = 2; i <= n; i++) { k = kernel[i]; ok = uniform[k] || variable[k]
          if (!ok) h = "not on this place"
          else if (row[j] == "block masks") h = uniform[k] && variable[k] ? "both" : "uniform"
          else if (row[j] == "directions") h = backward[k] ? "fwd+bwd" : "fwd"
          else if (row[j] == "block size") h = variable[k] ? "any" : size[k]
          else h = gqa[k] ? "yes" : "no"
          gsub(/, /, " and ", h); printf ",%s", h }
        print "" } }' data/published/table2.csv -
}

spread() { # TABLE CAPTION WHERE ROWS ACROSS VALUE
  if ! "$longca" select "$rows" --where "$3" --y "$6" >/dev/null 2>"$out.why"; then
    printf '  %-8s %s: %s\n' missing "$1" "$(sed 's/^longca select: //' "$out.why")" >&2
    rm -f "$out.why"
    failed=1
    return
  fi
  rm -f "$out.why"
  emit "$longca" show "data/published/$1.csv" "$rows" --where "$3" --rows "$4" --across "$5" --value "$6" \
    --caption "$2"
}

failed=0
gqa="mask=uniform_block_sparse pass=fwd mode=gqa kernel=flashinfer,fa2_sparse block=64,128 ratio=0.2,0.5,0.8"
mha="mask=uniform_block_sparse pass=fwd mode=mha kernel=flashinfer,fa2_sparse block=128 ratio=0.2,0.5,0.8"
flex="mask=uniform_block_sparse kernel=flex_sparse block=64,128 ratio=0.2,0.5,0.8"
place=host
[ "$rows" = - ] && ! "$longca" list support --csv | grep -q ',device,' || place=device
for table in "$@"; do
  out=$folder/$table$suffix
  note="printed in the paper and measured here; columns: kernel, block, fraction kept"
  case $table in
    table1 | table2)
      if [ "$table" = table1 ]; then
        what="which mask each dense kernel supports"
        table1 "$place" >"$out.csv"
      else
        what="what the block-sparse kernels support"
        table2 "$place" >"$out.csv"
      fi
      emit "$longca" show --table "$out.csv" --caption "Table ${table#table}: $what, printed in the paper and here ($place)"
      "$longca" list support --csv | awk -F, -v place="$place" '
        NR == 1 { print "kernel,why not ('"$place"'),on how many masks"; next }
        $4 == place && $5 != "yes" { r = $0; for (i = 1; i < 7; i++) sub(/^[^,]*,/, "", r); gsub(/"/, "", r); k = $3 ",\"" r "\""
          if (!(k in n)) order[++m] = k; n[k]++ }
        END { for (i = 1; i <= m; i++) print order[i] "," n[order[i]] }' >"$out-reasons.csv"
      out=$out-reasons
      emit "$longca" show --table "$out.csv" --caption "Why not, in the words of the kernels"
      ;;
    table3) spread table3 "Table 3: forward TFLOP/s, GQA; $note" "$gqa" seqlen,machine kernel,block,ratio tflop_s ;;
    table4) spread table4 "Table 4: forward TFLOP/s, MHA; $note" "$mha" seqlen,machine kernel,block,ratio tflop_s ;;
    table5) spread table5 "Table 5: TFLOP/s of block-sparse FlexAttention, printed in the paper and measured here; columns: block, pass" \
      "$flex" mode,ratio,seqlen,machine block,pass tflop_s ;;
    table6) spread table6 "Table 6: forward peak memory in GB, GQA; $note" "$gqa" seqlen,machine kernel,block,ratio peak_mem_bytes/1e9 ;;
    table7) spread table7 "Table 7: forward peak memory in GB, MHA; $note" "$mha" seqlen,machine kernel,block,ratio peak_mem_bytes/1e9 ;;
    table8) spread table8 "Table 8: peak memory in GB of block-sparse FlexAttention, printed in the paper and measured here; columns: block, pass" \
      "$flex" mode,ratio,seqlen,machine block,pass peak_mem_bytes/1e9 ;;
    *)
      printf 'table.sh: unknown table %s; the tables are table1 to table8\n' "$table" >&2
      exit 2
      ;;
  esac
done
exit $failed
