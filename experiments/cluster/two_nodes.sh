#!/usr/bin/env bash
# two_nodes.sh [MPIRUN-OPTION...] PROGRAM... -- mpirun on this host, where NCCL takes every two ranks for a node of
# their own: what passes between such nodes goes over sockets, and no GPU reaches into another node's memory.
#
#   LONGCA_MPIRUN=experiments/cluster/two_nodes.sh LONGCA_MACHINE=h200-2x2 longca run fig20 --set ranks=4
set -euo pipefail
# shellcheck disable=SC2016 # each rank's own
exec mpirun --oversubscribe --allow-run-as-root --bind-to none "${@:1:2}" \
  bash -c 'export NCCL_HOSTID=node$((OMPI_COMM_WORLD_RANK / 2)) NCCL_SOCKET_IFNAME=lo; exec "$@"' rank "${@:3}"
