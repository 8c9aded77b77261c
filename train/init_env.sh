#!/usr/bin/env bash
# Installs llava and dllm, with what training on GPUs needs, into the active Python environment, at the versions of
# requirements.lock. dllm is part of this distribution, so there is no second repository to clone.
#
#     cd train && bash init_env.sh
set -euo pipefail
[[ " $* " != *" --help "* ]] || exec sed -n '2,/^[^#]/s/^#\( \|$\)//p' "$0"
cd "$(dirname "${BASH_SOURCE[0]}")"
lock=../requirements.lock
python -m pip install --upgrade -c "$lock" pip # that of Python may be too old for --build-constraint
python -m pip install -c "$lock" --build-constraint "$lock" -e ".[train]"
