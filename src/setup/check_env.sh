#!/usr/bin/env bash
# check_env.sh [--required] -- what this machine has of what the project can use.
#
# One line a thing: found, with its version; or missing, with what that disables and how to get it.
# CUDA_HOME is where the toolkit is looked for (make check-env passes it). The exit code is 0, unless
# --required is given and something that the build, the tests or the figures need is missing.
set -u
cd "$(dirname "$0")/../.." || exit
cuda=${CUDA_HOME:-.toolchain/cuda}
lacking=0

# report NAME REQUIRED VERSION DISABLES GET: VERSION is empty when the thing is missing.
report() {
  if [ -n "$3" ]; then
    printf '  found    %-13s %s\n' "$1" "$3"
  else
    printf '  missing  %-13s disables: %s\n%25sget it: %s\n' "$1" "$4" '' "$5"
    [ "$2" = required ] && lacking=1
  fi
}

first_line() { "$@" 2>/dev/null | sed -n 1p; }
version_of() { "$@" 2>/dev/null | grep -oE '[0-9]+(\.[0-9]+)+' | sed -n 1p; }

# library HEADER FLAG: "yes" when a program that includes the header links with the flag.
library() {
  local out
  out=$(mktemp) || return
  printf '#include <stdarg.h>\n#include <stddef.h>\n#include <stdint.h>\n#include <stdio.h>\n' >"$out.c"
  printf '#include <setjmp.h>\n#include <%s>\nint main(void) { return 0; }\n' "$1" >>"$out.c"
  ${CC:-cc} -o "$out" "$out.c" "$2" 2>/dev/null && printf 'yes (%s)' "$2"
  rm -f "$out" "$out.c"
}

# defined HEADER NAME: the number that a header defines NAME as.
defined() { awk -v name="$2" '$1 == "#define" && $2 == name { print $3; exit }' "$1" 2>/dev/null; }

cudnn_version() {
  local header=$cuda/include/cudnn_version.h
  [ -f "$header" ] && printf '%s.%s.%s' "$(defined "$header" CUDNN_MAJOR)" \
    "$(defined "$header" CUDNN_MINOR)" "$(defined "$header" CUDNN_PATCHLEVEL)"
}

nccl_version() {
  local header=$cuda/include/nccl.h
  [ -f "$header" ] && printf '%s.%s.%s' "$(defined "$header" NCCL_MAJOR)" \
    "$(defined "$header" NCCL_MINOR)" "$(defined "$header" NCCL_PATCH)"
}

printf 'Needed\n'
everything="./setup.sh"
report "C compiler" required "$(first_line "${CC:-cc}" --version)" everything "$everything"
report make required "$(first_line make --version)" everything "$everything"
report libinih required "$(library ini.h -linih)" "the build" "$everything"
report libcjson required "$(library cjson/cJSON.h -lcjson)" "the build" "$everything"
report libcsv required "$(library csv.h -lcsv)" "the build" "$everything"
report libhwloc required "$(library hwloc.h -lhwloc)" "the build" "$everything"
report libcmocka required "$(library cmocka.h -lcmocka)" "make test" "$everything"
report gnuplot required "$(first_line gnuplot --version)" "figures; tables and rows stay" "$everything"
font=$(find /usr/share/fonts ~/.fonts ~/.local/share/fonts -name 'LiberationSans-Regular.*' 2>/dev/null)
report "Liberation" required "${font%%$'\n'*}" "figures that look the same everywhere" "$everything"

gpu() { nvidia-smi --query-gpu=name,driver_version --format=csv,noheader >/dev/null 2>&1 &&
  nvidia-smi --query-gpu=name,driver_version --format=csv,noheader | sort | uniq -c | sed -n "s/^ *//;1p"; }

printf 'For GPUs\n'
toolkit="./setup.sh --cuda (x86-64 Linux), or CUDA_HOME=/where/it/is"
report nvcc optional "$("$cuda/bin/nvcc" --version 2>/dev/null | sed -n "s|.*, V\(.*\)|\1 in $cuda|p")" \
  "every GPU kernel; the CPU engine stays" "$toolkit"
report cuBLAS optional "$([ -f "$cuda/include/cublas_v2.h" ] && echo "headers in $cuda")" \
  "every GPU kernel (naive needs it)" "$toolkit"
report cuDNN optional "$(cudnn_version)" "the kernel cudnn" "$toolkit"
report NCCL optional "$(nccl_version)" "context parallelism over GPUs" "$toolkit"
report "GPU, driver" optional "$(gpu)" \
  "measuring GPU kernels; compiling them stays" "a machine with an NVIDIA GPU, driver 580 or later"

printf 'For several machines\n'
report "Open MPI" optional "$(first_line mpirun --version)" \
  "context parallelism over processes" "$everything"

printf 'For make lint\n'
for tool in clang-tidy clang-format shellcheck; do
  report "$tool" optional "$(version_of "$tool" --version)" "part of make lint" "./setup.sh --ci"
done

[ "${1:-}" != --required ] || exit "$lacking"
