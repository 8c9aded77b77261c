#!/usr/bin/env bash
# Writes requirements.lock from the other requirements files, with the newest versions that they allow. It installs
# everything into a fresh environment, which it throws away, and writes down what came (minutes).
#
#     bash scripts/lock.sh
set -euo pipefail
[[ " $* " != *" --help "* ]] || exec sed -n '2,/^[^#]/s/^#\( \|$\)//p' "$0"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
: >"$folder/no_lock"
export VENV=$folder/venv REQUIREMENTS_LOCK=$folder/no_lock
export PIP_NO_CACHE_DIR=1 PIP_LOG=$folder/pip.log # a wheel that was built before would hide what builds take
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
python "$REPO_ROOT/scripts/lock.py" "$PIP_LOG" >"$folder/lock"
mv "$folder/lock" "$REPO_ROOT/requirements.lock"
