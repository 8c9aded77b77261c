#!/usr/bin/env bash
# bash init_env.sh: installs llava and dllm, with what training on GPUs needs, into the active Python environment.
# dllm is part of this distribution, so there is no second repository to clone.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
python -m pip install -e ".[train]"
