#!/usr/bin/env bash
# prove_container.sh [--cuda] [FOLDER] -- runs the Dockerfile's own steps without a Docker engine.
#
# A fresh Debian 12 is laid into FOLDER (default: a temporary one, removed at the end) by debootstrap,
# the last commit of this tree is cloned, and each instruction of the Dockerfile is carried out in that
# root, from set-up to `make test`. Without --cuda the build argument CUDA is 0. Needs root,
# debootstrap, and the network. What differs from Docker: the base is Debian's own, not the image's, and
# a chroot shares this machine's kernel, /proc and network.
set -euo pipefail
cd "$(dirname "$0")/../.."

declare -A variable=([CUDA]=0)
if [ "${1:-}" = --cuda ]; then
  variable[CUDA]=1
  shift
fi
root=${1:-} workdir=/ user=root step=0
if [ "$(id -u)" -ne 0 ] || ! command -v debootstrap >/dev/null; then
  printf 'prove_container.sh: needs root and debootstrap (apt-get install debootstrap).\n' >&2
  exit 2
fi
scratch=$(mktemp -d)
root=${root:-$scratch/root}
clone=$scratch/clone

cleanup() {
  local mount
  for mount in "$root/proc" "$root/dev"; do
    if mountpoint -q "$mount"; then umount -l "$mount"; fi
  done
  rm -rf --one-file-system "$scratch"
}
trap cleanup EXIT

base() { # FROM: a fresh Debian, and the way out that this machine has
  local file
  printf '         debootstrap bookworm into %s\n' "$root"
  debootstrap --variant=minbase --include=ca-certificates bookworm "$root" >"$scratch/log" 2>&1 || {
    tail "$scratch/log"
    exit 1
  }
  mount -t proc proc "$root/proc"
  mount --rbind --make-rslave /dev "$root/dev"
  for file in /etc/resolv.conf /etc/hosts /etc/ssl/certs/ca-certificates.crt /etc/pip.conf; do
    if [ -f "$file" ]; then cp -L "$file" "$root$file"; fi
  done
}

inside() { # inside COMMAND: as Docker's RUN, in the present folder, as the present user
  local name settings=()
  for name in "${!variable[@]}"; do settings+=("$name=${variable[$name]}"); done
  chroot --userspec="$user:$user" "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    HOME="$(awk -F: -v u="$user" '$1 == u { print $6 }' "$root/etc/passwd")" "${settings[@]}" \
    /bin/sh -c "cd $workdir && $1"
}

copy() { # copy "[--chown=USER] SOURCE... TARGET", folders by what they hold
  local words owner=0 target name
  read -ra words <<<"$1"
  case ${words[0]} in --chown=*)
    owner=$(awk -F: -v u="${words[0]#--chown=}" '$1 == u { print $3 }' "$root/etc/passwd")
    words=("${words[@]:1}")
    ;;
  esac
  target=$root$workdir/${words[-1]}
  mkdir -p "$target"
  for name in "${words[@]:0:${#words[@]}-1}"; do
    chown -R "$owner:$owner" "$clone/$name"
    if [ -d "$clone/$name" ]; then cp -a "$clone/$name/." "$target"; else cp -a "$clone/$name" "$target"; fi
  done
}

git clone --quiet . "$clone"
begin=$SECONDS
while read -r word rest; do
  case $word in '' | '#'*) continue ;; esac
  step=$((step + 1))
  printf '%5d s  %-8s %s\n' $((SECONDS - begin)) "$word" "$rest"
  case $word in
    ARG) [ -n "${variable[${rest%%=*}]:-}" ] || variable[${rest%%=*}]=${rest#*=} ;;
    FROM) base ;;
    WORKDIR)
      workdir=$rest
      mkdir -p "$root$workdir"
      ;;
    COPY) copy "$rest" ;;
    USER) user=$rest ;;
    RUN) inside "$rest" </dev/null ;;
    CMD) ;;
    *)
      printf 'prove_container.sh: the instruction %s is not known here.\n' "$word" >&2
      exit 2
      ;;
  esac
done <"$clone/Dockerfile"
printf '%5d s  all %d instructions carried out\n' $((SECONDS - begin)) "$step"
