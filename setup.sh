#!/usr/bin/env bash
# setup.sh [--cuda] [--ci] -- installs what the project needs and this machine lacks.
#
# Distribution packages come from packages.txt, through apt, as root or by sudo. --cuda also fetches
# the pinned CUDA toolkit (src/setup/cuda.lock, 1.2 GB) into .toolchain/cuda; nothing else outside the
# package system is touched. Safe to run again: what is there already stays as it is.
set -euo pipefail
cd "$(dirname "$0")"

fail() {
  printf 'setup.sh: %s\n' "$1" >&2
  exit 2
}

groups=" build "
for option in "$@"; do
  case $option in
    --cuda | --ci) groups+="${option#--} " ;;
    -h | --help)
      sed -n '2,6s/^# \{0,1\}//p' "$0"
      exit 0
      ;;
    *) fail "unknown option '$option'; the options are --cuda and --ci." ;;
  esac
done

wanted() { # names of the packages of the chosen groups
  awk -v groups="$groups" '!/^#/ && index(groups, " " $2 " ") { print $1 }' packages.txt
}

install_packages() {
  local package missing=() root=()
  if ! command -v apt-get >/dev/null; then
    printf 'There is no apt here. Install what these Debian packages hold, by your own package manager:\n'
    wanted | sed 's/^/  /'
    printf 'What is found and what is missing now:\n'
    src/setup/check_env.sh --required
    return
  fi
  for package in $(wanted); do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q ' installed$' || missing+=("$package")
  done
  if [ ${#missing[@]} -eq 0 ]; then
    printf 'Packages: all there.\n'
    return
  fi
  printf 'Packages: installing %s\n' "${missing[*]}"
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null ||
      fail "not root, and no sudo here; as root run: apt-get install ${missing[*]}"
    root=(sudo)
  fi
  "${root[@]}" apt-get update -qq
  "${root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null
}

# The wheels hold CUDA's own folders, with cuDNN and NCCL beside them. Merge these, and add the names
# that a linker looks for: lib64, and libX.so for each libX.so.N.
install_cuda() {
  local lock=src/setup/cuda.lock home=.toolchain/cuda wheels=.toolchain/wheels library
  if cmp -s "$lock" "$home/cuda.lock"; then
    printf 'CUDA: %s is as %s says.\n' "$home" "$lock"
    return
  fi
  [ "$(uname -sm)" = "Linux x86_64" ] || fail "$lock pins wheels for x86-64 Linux alone."
  python3 -m pip --version >/dev/null 2>&1 || fail "--cuda needs python3 with pip."
  printf 'CUDA: fetching the wheels of %s (1.2 GB) into %s\n' "$lock" "$home"
  rm -rf "$wheels" "$home"
  python3 -m pip install --disable-pip-version-check --root-user-action=ignore --no-cache-dir \
    --no-deps --require-hashes --only-binary :all: --no-compile --target "$wheels" -r "$lock"
  mv "$wheels/nvidia/cu13" "$home"
  cp -al "$wheels"/nvidia/cudnn/{include,lib} "$wheels"/nvidia/nccl/{include,lib} "$home"
  rm -rf "$wheels"
  for library in "$home"/lib/lib*.so.*; do
    ln -sf "$(basename "$library")" "${library%%.so.*}.so"
  done
  ln -s lib "$home/lib64"
  "$home/bin/nvcc" --version | sed -n 's/^Cuda compilation tools/CUDA: nvcc/p'
  cp "$lock" "$home/cuda.lock"
}

install_packages
case $groups in *" cuda "*) install_cuda ;; esac
