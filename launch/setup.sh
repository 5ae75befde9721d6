#!/usr/bin/env bash
# Makes or updates .venv in this checkout; does nothing when it is up to date.
#
#   bash launch/setup.sh base    what sampling needs (requirements/base.txt)
#   bash launch/setup.sh test    training and the tests too (requirements/test.txt)
#
# A .venv that is already there and works is used as it is: to choose the Python, make it yourself.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
wanted=${1:-}
venv=.venv
stamp=$venv/mav-installed # "<base or test> <checksum>", or "installing", or "made"

die() {
  printf 'setup: %s\n' "$*" >&2
  exit 1
}

say() { printf 'setup: %s\n' "$*"; }

[[ $wanted == base || $wanted == test ]] || die "got '$wanted'; say 'base' or 'test'."

# Python 3.11 or later that can make a virtual environment.
find_python() {
  local python found=""
  for python in python3.13 python3.12 python3.11 python3; do
    "$python" -c '' 2>/dev/null || continue # absent, or a pyenv name without a version behind it
    if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
      found+="$("$python" --version) is too old; "
    elif ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
      found+="$python lacks its venv module (Debian, Ubuntu: apt install $python-venv); "
    else
      command -v "$python"
      return
    fi
  done
  die "mav needs Python 3.11 or later with venv: ${found:-none found; }install one and run this again."
}

works() { # the Python in .venv runs, is new enough and has pip (uv makes them without)
  "$venv/bin/python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' &&
    { "$venv/bin/python" -c 'import pip' || "$venv/bin/python" -m ensurepip; }
} &>/dev/null

checksum() { # of all that decides what is installed; a moved checkout counts as changed
  { "$venv/bin/python" --version && pwd && cat "requirements/$1.txt" pyproject.toml; } | cksum
}

state=$(cat "$stamp" 2>/dev/null || true)
if [[ $state == installing ]] || ! works; then
  python=$(find_python)
  if [[ -e $venv || -L $venv ]]; then
    [[ $state == installing || -e $venv/pyvenv.cfg ]] ||
      die "$PWD/$venv is not a virtual environment; move it away and run this again."
    say "the $venv here is half made, broken or of an old Python; making it anew"
  fi
  say "making $venv with $("$python" --version)"
  rm -rf "$venv"
  mkdir "$venv"
  echo installing >"$stamp"
  "$python" -m venv "$venv" || die "$python -m venv failed, see above."
  state=made
fi

# What the tests need includes what sampling needs.
[[ $state == "$wanted $(checksum "$wanted")" || $state == "test $(checksum test)" ]] && exit

# Stopped half-way, an installation cannot be trusted: the stamp says so until it is done. A .venv
# without a stamp is somebody's own and is never thrown away.
[[ -n $state ]] && echo installing >"$stamp"
trap 'exit 130' INT TERM

pip=("$venv/bin/python" -m pip --disable-pip-version-check --no-input)

failed() { # pip says why on its own; killed (128 and up), it leaves the stamp as it is
  [[ $1 -ge 128 || -z $state ]] || echo "$state" >"$stamp"
  die "pip could not install $2 (see above); mend that and run this again."
}

# Of pip's lines: a count that stays on one line of a terminal, else every tenth. "Processing" is a
# file, as pip's --find-links gives.
progress() {
  local verb package rest line count=0 total=$1
  while read -r verb package rest; do
    case $verb in
      Collecting | Ignoring) count=$((count + 1)) ;;
      Processing) count=$((count + 1)) package=${package##*/} package=${package%%-[0-9]*} ;;
      Requirement) count=$((count + 1)) package=${rest#satisfied: } ;;
      Installing) package="all fetched, unpacking" ;;
      *) continue ;;
    esac
    printf -v line 'setup: %d of %d  %.40s' "$count" "$total" "${package%%[=<>!;:]*}"
    if [[ -t 1 ]]; then
      printf '\r%-70s' "$line"
    elif [[ $verb == Installing ]] || ((count % 10 == 0)); then
      echo "$line"
    fi
  done
  if [[ -t 1 ]]; then echo; fi
}

total=$(grep -c '^[^#]' "requirements/$wanted.txt")
say "installing $total packages into $venv (about a minute, more on a slow line)"
# The list is complete, so pip need not look for what the packages need in turn.
"${pip[@]}" install --progress-bar off --no-deps --requirement "requirements/$wanted.txt" |
  progress "$total" || failed "${PIPESTATUS[0]}" "requirements/$wanted.txt"
say "installing mav itself, as links to this checkout"
"${pip[@]}" install --quiet --no-deps --editable . || failed $? "mav"
echo "$wanted $(checksum "$wanted")" >"$stamp"
say "done; to use it in this shell: source $PWD/$venv/bin/activate"
