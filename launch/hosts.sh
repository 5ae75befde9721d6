#!/usr/bin/env bash
# Trains on several machines that ssh reaches, one process on each.
#
#   bash launch/hosts.sh [--dry-run] "HOST HOST ..." --config FILE:SIZE,PHASE --workdir DIR ...
#
# Every machine has this checkout at the same path, set up by `bash launch/setup.sh test`, and sees
# DIR. The first one coordinates, on port 8476 or PORT. "localhost" runs here without ssh, once for
# each time that it is named. When one process fails, or this is interrupted, all the others save
# and end. Call it again to go on.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."

die() {
  printf 'hosts: %s\n' "$*" >&2
  exit 2
}

dry=""
if [[ ${1:-} == --dry-run ]]; then
  dry=yes
  shift
fi
read -ra hosts <<<"${1:-}"
[[ ${#hosts[@]} -gt 0 && ${1:-} != --* ]] || die 'name the machines first, as "node1 node2".'
[[ ${hosts[0]} != localhost || ${hosts[*]} =~ ^localhost(\ localhost)*$ ]] ||
  die "name this machine as the others see it, not localhost."
shift

# The command of process $1, quoted for a shell.
command_of() {
  local process=$1
  shift
  printf '%q ' .venv/bin/mav train "$@" --coordinator "${hosts[0]#*@}:${PORT:-8476}" \
    --num_processes "${#hosts[@]}" --process_id "$process"
}

# Runs the command $2 on machine $1, in the shell's place. When its input ends, it is told to.
on() {
  local guarded
  guarded="cd $(printf '%q' "$PWD") && exec 3<&0 && { $2 </dev/null & pid=\$!; \
{ cat <&3; kill -TERM \$pid; } >/dev/null 2>&1 & wait \$pid; }"
  # A session of its own, or an interrupt would reach it unsaved.
  if [[ $1 == localhost ]]; then
    exec setsid bash -c "$guarded"
  fi
  exec setsid ssh -o BatchMode=yes "$1" "bash -c $(printf '%q' "$guarded")"
}

pids=()
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkfifo "$scratch/input"
exec 9<>"$scratch/input" # all commands read it; its end is theirs
stop() { exec 9>&-; }
trap stop INT TERM

for process in "${!hosts[@]}"; do
  line=$(command_of "$process" "$@")
  if [[ -n $dry ]]; then
    echo "${hosts[process]}: $line"
  else
    on "${hosts[process]}" "$line" <"$scratch/input" 9>&- &
    pids+=($!)
  fi
done

status=0
for _ in "${pids[@]}"; do
  wait -n -p ended || {
    status=$?
    for process in "${!pids[@]}"; do
      if [[ ${pids[process]} == "${ended:-}" ]]; then
        echo "hosts.sh: process $process on ${hosts[process]} ended with status $status, the others \
are told to end; the same command goes on from the newest checkpoint" >&2
      fi
    done
    break
  }
done
stop
wait
exit "$status"
