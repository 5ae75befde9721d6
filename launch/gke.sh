#!/usr/bin/env bash
# Trains on a GKE cluster of TPUs or GPUs: one JobSet, sent by XPK (pip install xpk).
#
#   bash launch/gke.sh [--dry-run] NAME CLUSTER TYPE --config FILE:SIZE,PHASE --workdir gs://... ...
#
# TYPE: as XPK names them, v5litepod-256, v6e-64, h100-mega-80gb-8. SLICES: how many of them (1).
# IMAGE: what launch/Dockerfile was pushed as. A preempted job comes again by itself, RESTARTS (20)
# times, and goes on from its newest checkpoint. Watch it by `kubectl logs -f -l
# jobset.sigs.k8s.io/jobset-name=NAME`, end it by `xpk workload delete`.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."

die() {
  printf 'gke: %s\n' "$*" >&2
  exit 2
}

dry=""
if [[ ${1:-} == --dry-run ]]; then
  dry=yes
  shift
fi
[[ $# -ge 4 ]] || die "say NAME, CLUSTER, TYPE and what to train: --config FILE:SIZE,PHASE ..."
name=$1 cluster=$2 type=$3
shift 3
[[ -n ${IMAGE:-} ]] || die "IMAGE is not set; build launch/Dockerfile, push it, and name it."

kind=tpu-type
[[ $type == v[0-9]* ]] || kind=device-type
run=(xpk workload create "--workload=$name" "--cluster=$cluster" "--$kind=$type"
  "--num-slices=${SLICES:-1}" "--docker-image=$IMAGE" "--max-restarts=${RESTARTS:-20}"
  "--command=mav train $(printf '%q ' "$@")")
if [[ -n $dry ]]; then
  printf '%q ' "${run[@]}"
  echo
  exit
fi
exec "${run[@]}"
