#!/usr/bin/env bash
# Trains the embedded cascade from nothing: six networks on the cutout world, then the cascade folder.
#
#   bash launch/train_cutout.sh [RUNS] [CASCADE]
#
# RUNS: folder of the runs (runs/cutout). CASCADE: folder to export to (mav/cascades/cutout).
# Interrupt it whenever you like and call it again: each stage goes on from its last checkpoint, and
# a finished one is passed over. Meant to take about 10 hours on two CPU cores; not yet run whole.
set -euo pipefail
cd "$(dirname "$0")/.."
RUNS=${1:-runs/cutout}
CASCADE=${2:-mav/cascades/cutout}

bash launch/setup.sh test
# shellcheck disable=SC1091
source .venv/bin/activate
mkdir -p "$RUNS"

if [ ! -d "$RUNS/data/cutout_images" ]; then
    echo "== drawing the captioned images once"
    mav data build cutout_images "$RUNS/data" --size 64 --num_train 60000 --num_test 1000
fi
IMAGES=--config.data.images=$RUNS/data/cutout_images/64/1.0.0
CLIP=--config.clip=$RUNS/clip

stage() { # name of the run, config, further arguments
    local run=$1 config=$2
    shift 2
    echo "== $run ($config)"
    mav train --config "configs/$config" --workdir "$RUNS/$run" "$@"
}

stage clip clip.py:cutout "$IMAGES"
stage prior prior.py:cutout "$CLIP" "$IMAGES"
stage decoder_image decoder.py:cutout,image "$CLIP" "$IMAGES"
stage decoder decoder.py:cutout,video "$CLIP" --config.init="$RUNS/decoder_image" \
    --config.data.stills_from="$RUNS/data/cutout_images/64/1.0.0"
stage interpolation interpolation.py:cutout "$CLIP" --config.init="$RUNS/decoder"
stage sr_256_image sr_256.py:cutout,image
stage sr_256 sr_256.py:cutout,video --config.init="$RUNS/sr_256_image"
stage sr_768 sr_768.py:cutout

mav export "$RUNS"/{clip,prior,decoder,interpolation,sr_256,sr_768} "$CASCADE" \
    --dtype float16 --settings configs/cutout_cascade.json
