#!/usr/bin/env bash
# Trains on a Cloud TPU slice, of one host or many, from your own machine.
#
#   bash launch/tpu_vm.sh [--dry-run] create NAME ZONE TYPE [--spot]   queue for a slice: v5litepod-256
#   bash launch/tpu_vm.sh [--dry-run] state  NAME ZONE                 has it come?
#   bash launch/tpu_vm.sh [--dry-run] setup  NAME ZONE [REVISION]      install mav on all its hosts
#   bash launch/tpu_vm.sh [--dry-run] train  NAME ZONE --config FILE:SIZE,PHASE --workdir gs://... ...
#   bash launch/tpu_vm.sh [--dry-run] watch  NAME ZONE                 follow the first host's log
#   bash launch/tpu_vm.sh [--dry-run] stop   NAME ZONE                 save and end
#   bash launch/tpu_vm.sh [--dry-run] delete NAME ZONE                 give the slice back
#
# Needs gcloud, logged in, with a project set. The training goes on when you hang up, writes to
# ~/mav.log on every host, and goes on from its newest checkpoint when `train` is called again,
# on a new slice as well. GIT: what `setup` clones, the origin of this checkout if left out.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."

die() {
  printf 'tpu_vm: %s\n' "$*" >&2
  exit 2
}

dry=""
if [[ ${1:-} == --dry-run ]]; then
  dry=yes
  shift
fi
[[ $# -ge 3 ]] || die "say what to do: create, state, setup, train, watch, stop or delete, NAME, ZONE."
what=$1 name=$2 zone=$3
shift 3

run() {
  if [[ -n $dry ]]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

tpus() { run gcloud compute tpus "$@" --zone="$zone"; }

on() { # which hosts, command
  tpus tpu-vm ssh "$name" --worker="$1" --command="$2"
}

# The software of a TPU VM, by type.
runtime() {
  case $1 in
    v4-*) echo tpu-ubuntu2204-base ;;
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v6e-*) echo v2-alpha-tpuv6e ;;
    *) die "TYPE $1 is unknown; choose v4-N, v5litepod-N, v5p-N or v6e-N." ;;
  esac
}

case $what in
  create)
    [[ $# -ge 1 ]] || die "create needs a TYPE, like v5litepod-256."
    version=$(runtime "$1")
    tpus queued-resources create "$name" --node-id="$name" --accelerator-type="$1" \
      --runtime-version="$version" "${@:2}"
    ;;
  state) tpus queued-resources describe "$name" --format='value(state.state)' ;;
  setup)
    origin=${GIT:-$(git remote get-url origin 2>/dev/null)} ||
      die "this checkout has no remote 'origin'; let GIT say what the hosts are to clone."
    revision=${1:-$(git rev-parse HEAD)}
    on all "set -e; [ -d mav ] || git clone $(printf '%q' "$origin") mav; cd mav; git fetch -q; \
git checkout -q $(printf '%q' "$revision"); python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
|| sudo apt-get -qq install -y python3.11 python3.11-venv; \
bash launch/setup.sh test; .venv/bin/pip install -q '.[tpu]'"
    ;;
  train)
    [[ $# -ge 1 ]] || die "say what to train: --config FILE:SIZE,PHASE --workdir gs://..."
    on all "cd mav; nohup .venv/bin/mav train $(printf '%q ' "$@")>>~/mav.log 2>&1 </dev/null &"
    ;;
  watch) on 0 "tail -n 20 -F mav.log" ;;
  stop) # [m]: or the shell that looks for it would find itself
    on all "pid=\$(pgrep -of '[m]av train') || exit 0; kill -TERM \$pid; tail --pid=\$pid -f /dev/null"
    ;;
  delete) tpus queued-resources delete "$name" --force --quiet ;;
  *) die "$what is unknown; choose create, state, setup, train, watch, stop or delete." ;;
esac
