#!/usr/bin/env bash
# Builds the wheel, installs it into a fresh environment, and samples from that: before a release.
#
#   bash launch/release.sh        dist/mav-VERSION-py3-none-any.whl; minutes, most of them fetching
#
# The environment and what is sampled lie in a folder that is removed at the end.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash launch/setup.sh test
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# From a copy of what git knows, or files of this folder that are in no commit would be in it.
mkdir "$scratch/source"
git archive HEAD | tar -x -C "$scratch/source"
rm -f dist/mav-*.whl
.venv/bin/python -m pip wheel --quiet --no-deps --wheel-dir dist "$scratch/source"
wheel=$(echo dist/mav-*.whl)
echo "release: $wheel, $(du -h "$wheel" | cut -f1)"

.venv/bin/python -m venv "$scratch/fresh"
"$scratch/fresh/bin/python" -m pip install --quiet "$wheel" --constraint requirements/base.txt
wheel=$PWD/$wheel
cd "$scratch" # away from the checkout, which Python would find first
fresh/bin/mav sample "a red ball over a green meadow" --size 64 --frames 16 --out ball.mp4
fresh/bin/mav show ball.mp4
echo "release: a fresh environment samples from $wheel"
