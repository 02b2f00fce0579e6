# shellcheck shell=bash
# place.sh -- sourced: where what is drawn from a file of rows goes.
#   data/fresh/m/cpu.csv       folder figures/out/m            suffix -cpu
#   data/recorded/m/quick.csv  folder figures/out/recorded/m   suffix -quick
#   - (no rows)                folder figures/out/common       no suffix
# shellcheck disable=SC2034 # whoever sources this reads them
place_of() { # place_of ROWS.csv|-
  machine=$(basename "$(dirname "$1")") profile=$(basename "$1" .csv)
  folder=figures/out/$machine suffix=-$profile
  case $1 in
    -) folder=figures/out/common suffix='' ;;
    *data/recorded/*) folder=figures/out/recorded/$machine ;;
  esac
}
