#!/usr/bin/env bash
# bash scripts/lock.sh: writes requirements.lock from the other requirements files, with the newest versions that they
# allow. It installs everything into a fresh environment, which it throws away, and writes down what came (minutes).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
: >"$folder/no_lock"
export VENV=$folder/venv REQUIREMENTS_LOCK=$folder/no_lock
export PIP_NO_CACHE_DIR=1 PIP_LOG=$folder/pip.log # a wheel that was built before would hide what builds take
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
python "$REPO_ROOT/scripts/lock.py" "$PIP_LOG" >"$folder/lock"
mv "$folder/lock" "$REPO_ROOT/requirements.lock"
