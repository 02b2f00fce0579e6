#!/usr/bin/env bash
# lint.sh [-- COMPILER FLAGS] -- what the compiler does not see; `make lint` passes the build's flags.
#
#   every C file: clang-tidy, by .clang-tidy; C, headers: clang-format, by .clang-format;
#   every script: shellcheck; all of it: no tabs, and no blanks at the end of a line
# A tool that is missing is said and left out, unless CI is set: then it is a failure.
set -u
cd "$(dirname "$0")/.." || exit
if [ $# -gt 0 ] && [ "$1" != -- ]; then
  printf "lint.sh: what is '%s'? Flags of the compiler follow a --; make lint passes the build's.\n" "$1" >&2
  exit 2
fi
[ $# -eq 0 ] || shift
flags=("$@")
failed=()

mapfile -t sources < <(git ls-files -co --exclude-standard '*.c')
mapfile -t code < <(git ls-files -co --exclude-standard '*.c' '*.h' '*.cu' '*.cuh')
mapfile -t layout < <(git ls-files -co --exclude-standard '*.c' '*.h') # inline PTX is laid out by hand
mapfile -t scripts < <(git ls-files -co --exclude-standard '*.sh' .ci/run)

check() { # check NAME COMMAND...
  local name=$1 begin=$SECONDS
  shift
  if [ "$name" != text ] && ! command -v "$name" >/dev/null; then
    printf '  %-13s not here (./setup.sh --ci installs it)\n' "$name"
    [ -z "${CI:-}" ] || failed+=("$name")
  elif "$@"; then
    printf '  %-13s clean, %d s\n' "$name" $((SECONDS - begin))
  else
    printf '  %-13s NOT CLEAN\n' "$name"
    failed+=("$name")
  fi
}

tidy() {
  # shellcheck disable=SC2016 # expanded by the inner shell; xargs puts the file last
  printf '%s\0' "${sources[@]}" | xargs -0 -n 1 -P "$(nproc)" bash -c \
    'clang-tidy --quiet "${@: -1}" -- "${@:1:$#-1}" 2>/dev/null' tidy "${flags[@]}"
}

layout() { # the files that `make format` would change
  clang-format --dry-run --Werror "${layout[@]}" 2>&1 | sed -n 's/^\([^ :]*\):[0-9]*:.*/\1/p' | sort | uniq -c
  [ "${PIPESTATUS[0]}" -eq 0 ]
}

text() { # grep finds what should not be there
  ! LC_ALL=C.UTF-8 grep -nE '[[:blank:]]$|'$'\t' "${code[@]}" "${scripts[@]}"
}

check clang-tidy tidy
check clang-format layout
check shellcheck shellcheck --exclude=SC2317 "${scripts[@]}"
check text text
[ ${#failed[@]} -eq 0 ]
