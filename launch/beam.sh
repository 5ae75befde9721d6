#!/usr/bin/env bash
# Builds a data set with Apache Beam, one shard of the source at a time.
#
#   bash launch/beam.sh [--dry-run] direct   videos SRC DST ...     several processes here
#   bash launch/beam.sh [--dry-run] flink    videos SRC DST ...     FLINK=HOST:8081
#   bash launch/beam.sh [--dry-run] dataflow images SRC DST ...     PROJECT, REGION, BUCKET, IMAGE
#
# SRC and DST: paths that all workers see, as of a shared disk or a mounted bucket; more options of
# `mav data build` and of Beam may follow. WORKERS: how many at a time (2, and 64 on Dataflow).
# IMAGE: what a Dockerfile of the SDK's image with mav[beam] in it was pushed as. A build that ended
# early goes on when it is sent again. Beam wants older packages than the tests, so MAV names the
# command of an environment of its own (mav): pip install '.[beam]'.
set -euo pipefail

die() {
  printf 'beam: %s\n' "$*" >&2
  exit 2
}

dry=""
if [[ ${1:-} == --dry-run ]]; then
  dry=yes
  shift
fi
[[ $# -ge 4 ]] || die "say direct, flink or dataflow, then videos or images, SRC and DST."
runner=$1
shift
case $runner in
  direct)
    options=(--beam_runner=DirectRunner --direct_running_mode=multi_processing
      "--direct_num_workers=${WORKERS:-2}")
    ;;
  flink)
    [[ -n ${FLINK:-} ]] || die "FLINK is not set; name the cluster's HOST:8081."
    options=(--beam_runner=FlinkRunner "--flink_master=$FLINK" --environment_type=LOOPBACK
      "--parallelism=${WORKERS:-2}")
    ;;
  dataflow)
    for name in PROJECT REGION BUCKET IMAGE; do
      [[ -n ${!name:-} ]] || die "$name is not set."
    done
    options=(--beam_runner=DataflowRunner "--project=$PROJECT" "--region=$REGION"
      "--temp_location=gs://$BUCKET/beam" "--sdk_container_image=$IMAGE"
      "--max_num_workers=${WORKERS:-64}")
    ;;
  *) die "RUNNER $runner is unknown; choose direct, flink or dataflow." ;;
esac
run=("${MAV:-mav}" data build "$@" "${options[@]}")
if [[ -n $dry ]]; then
  printf '%q ' "${run[@]}"
  echo
  exit
fi
exec "${run[@]}"
