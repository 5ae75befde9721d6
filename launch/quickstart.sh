#!/usr/bin/env bash
# From nothing to a video: sets up .venv in this checkout, then samples the embedded cascade.
#
#   bash launch/quickstart.sh "a red ball over a green meadow" [arguments of `mav sample`]
#
# The video comes into the folder you call this from.
set -euo pipefail

checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
bash "$checkout/launch/setup.sh" base
(($#)) || set -- "a red ball over a green meadow"
printf 'quickstart: mav sample'
printf ' %q' "$@"
echo
exec "$checkout/.venv/bin/mav" sample "$@"
