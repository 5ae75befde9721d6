#!/usr/bin/env bash
# Sets up .venv with what the tests need, checks the style, and runs the tests.
#
#   bash launch/test.sh                     all but the slow ones
#   bash launch/test.sh -m slow             the slow ones
#   bash launch/test.sh --parity            networks against diffusers, transformers and
#                                           torch-fidelity, which this installs into .venv beside the
#                                           rest (torch is large)
#   bash launch/test.sh --beam              data sets built by Apache Beam, in an environment of its
#                                           own, .venv-beam: Beam wants older packages
#   bash launch/test.sh --app               the page of `mav app`, in Chromium if that is installed (apt
#                                           install chromium), in an environment of its own, .venv-app
#   bash launch/test.sh tests/test_media.py -k gif
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash launch/setup.sh test

echo "test: ruff checks the style"
.venv/bin/python -m ruff check
.venv/bin/python -m ruff format --check

if [[ ${1:-} == --parity ]]; then
  shift
  echo "test: installing what requirements/parity.txt names"
  .venv/bin/python -m pip install --disable-pip-version-check --quiet -r requirements/parity.txt
  .venv/bin/python -m pip install --disable-pip-version-check --quiet --no-deps \
    -r requirements/parity_alone.txt
  set -- tests/test_convert.py tests/test_features.py tests/test_evaluate_stages.py --parity \
    -k "live or scikit_image" "$@"
fi

python=.venv/bin/python
if [[ ${1:-} == --beam ]]; then
  shift
  echo "test: installing Beam and what mav needs into .venv-beam (minutes, the first time)"
  [[ -e .venv-beam ]] || .venv/bin/python -m venv .venv-beam
  python=.venv-beam/bin/python
  $python -m pip install --disable-pip-version-check --quiet --editable '.[beam,test]'
  set -- tests/test_prepare.py -k beam "$@"
fi

if [[ ${1:-} == --app ]]; then
  shift
  echo "test: installing Gradio, Playwright and what mav needs into .venv-app (a minute, the first time)"
  [[ -e .venv-app ]] || .venv/bin/python -m venv .venv-app
  python=.venv-app/bin/python
  $python -m pip install --disable-pip-version-check --quiet --editable '.[app,test]' \
    -r requirements/app.txt
  # Gradio and what it uses warn, of each other and of sockets that are still open at the end.
  set -- tests/test_app.py -W default "$@"
fi

select=(-m "not slow")
for argument in "$@"; do
  [[ $argument == -m* ]] && select=()
done

# The tests compare with float32 on a CPU; set JAX_PLATFORMS yourself to run them elsewhere.
export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}
echo "test: pytest on two processes, JAX_PLATFORMS=$JAX_PLATFORMS"
exec $python -m pytest -n 2 ${select[@]+"${select[@]}"} "$@"
