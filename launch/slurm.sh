#!/usr/bin/env bash
#SBATCH --job-name=mav
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --gpu-bind=none
#SBATCH --cpus-per-task=12
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@180
#SBATCH --requeue
#SBATCH --open-mode=append
# Trains on GPUs under SLURM, one process per GPU.
#
#   sbatch [--nodes=4 ...] launch/slurm.sh --config FILE:SIZE,PHASE --workdir DIR ...
#   bash launch/slurm.sh --dry-run --config ...          prints what a job would run
#
# Send it from the checkout, which all nodes see, set up by `bash launch/setup.sh test` and
# `.venv/bin/pip install '.[gpu]'`. Three minutes before its time is over the job saves and ends;
# sent again with the same words, or requeued after a preemption, it goes on.
set -euo pipefail

# SLURM runs a copy of this file, from elsewhere.
cd "${SLURM_SUBMIT_DIR:-$(dirname "${BASH_SOURCE[0]}")/..}"
run=(srun --kill-on-bad-exit=1 .venv/bin/mav train)
if [[ ${1:-} == --dry-run ]]; then
  shift
  printf '%q ' "${run[@]}" "$@"
  echo
  exit
fi
[[ $# -gt 0 ]] || {
  echo "slurm: say what to train: --config FILE:SIZE,PHASE --workdir DIR ..." >&2
  exit 2
}
exec "${run[@]}" "$@"
