#!/usr/bin/env bash
# bundle.sh FOLDER -- the program and its tests in a folder that runs on a machine without the packages it
# was built with: beside them the Debian libraries they use, and env.sh, which finds the rest. CUDA's own
# libraries (cuBLAS, cuDNN, NVRTC, NCCL) are too large to take along; the machine has to have them, in a
# toolkit or in Python's wheels. A build with MPI brings mpirun too, for the ranks of one machine.
#
#   make MPI=0 build build/kernels/gpu_test && experiments/bundle.sh build/bundle
#   there, in a copy of this tree:  . build/bundle/env.sh && experiments/record.sh 9 out
#
#   B   what was built (build)
set -euo pipefail
if [ $# -ne 1 ]; then
  printf 'bundle.sh: usage: bundle.sh FOLDER\n' >&2
  exit 2
fi
B=${B:-build} to=$1
for program in "$B/longca" "$B/kernels/gpu_test"; do
  if [ ! -x "$program" ]; then
    printf 'bundle.sh: there is no %s; make build %s/kernels/gpu_test\n' "$program" "$B" >&2
    exit 2
  fi
done
mkdir -p "$to"
strip -o "$to/longca" "$B/longca"
strip -o "$to/gpu_test" "$B/kernels/gpu_test"
# Context parallelism's, where it was built: its NCCL half starts itself under mpirun.
[ ! -x "$B/cp/gpu_test" ] || strip -o "$to/cp_gpu_test" "$B/cp/gpu_test"
# What every machine has stays: another C library beside the machine's own starts nothing.
carry_libraries() { # carry_libraries FILE...
  ldd "$@" | awk '$2 == "=>" && $3 ~ "^(/usr)?/lib/" { print $3 }' | sort -u |
    grep -vE '/(libc|libm|libdl|librt|libpthread|libgcc_s|libstdc\+\+|libcuda|libcu[a-z]*|libnccl)\.so' |
    xargs -r -I{} cp -L {} "$to/"
}
carry_libraries "$to"/longca "$to"/*gpu_test
# Open MPI looks for its plugins and texts below OPAL_PREFIX, as they lie below its own prefix. Those of
# fabrics stay. Ranks of one machine need no ssh, for which a bare mpirun asks even so.
mpi=
if ldd "$B/longca" | grep -q libmpi; then
  path_of() { ompi_info --parsable --path "$1" | cut -d: -f3; }
  prefix=$(path_of prefix) plugins=$(path_of pkglibdir) texts=$(path_of pkgdatadir)
  folder=$to/mpi/${plugins#"$prefix"/}
  mkdir -p "$to/mpi/bin" "$folder" "$to/mpi/${texts#"$prefix"/}"
  cp -L "$(command -v mpirun)" "$(command -v orted)" "$to/mpi/bin/"
  cp -r "$texts"/. "$to/mpi/${texts#"$prefix"/}/"
  for plugin in "$plugins"/*.so; do
    ldd "$plugin" | grep -qE '/lib(uct|fabric|ibverbs|psm2?|psm_infinipath|oshmem)\.so' ||
      cp "$plugin" "$folder/"
  done
  carry_libraries "$to"/mpi/bin/* "$folder"/*
  mpi="export PATH=\$here/mpi/bin:\$PATH OPAL_PREFIX=\$here/mpi OMPI_MCA_plm=isolated
export PMIX_MCA_pcompress_base_silence_warning=1"
fi
commit=$(git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
[ -z "$(git status --porcelain -uno 2>/dev/null)" ] || commit+=-dirty
cat >"$to/env.sh" <<END
# env.sh -- sourced: where the program and its libraries are, and the commit that rows are to name.
here=\$(cd "\$(dirname "\${BASH_SOURCE[0]}")" && pwd)
export LONGCA=\$here/longca GPU_TEST=\$here/gpu_test LONGCA_COMMIT=$commit
$mpi
folders=\$(find /usr/local /opt /usr/lib -name 'libcublas.so.1*' -o -name 'libcudnn.so.9' -o -name 'libnvrtc.so.1*' \\
  -o -name 'libnccl.so.2' 2>/dev/null | xargs -r -n 1 dirname | sort -u | paste -sd:)
export LD_LIBRARY_PATH=\$here\${folders:+:\$folders}\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}
missing=\$(ldd "\$LONGCA" "\$GPU_TEST" | awk '/not found/ { print \$1 }' | sort -u | paste -sd' ')
[ -z "\$missing" ] || echo "env.sh: this machine lacks \$missing (looked in /usr/local, /opt, /usr/lib)" >&2
END
du -sh "$to" | awk '{ print $1 " in " $2 }'
