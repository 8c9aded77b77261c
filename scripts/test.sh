#!/usr/bin/env bash
# The environment, the style checks, then the tests, two files at a time.
#
#     bash scripts/test.sh [arguments of pytest]
#     bash scripts/test.sh tests/dllm_core -q
set -euo pipefail
[[ " $* " != *" --help "* ]] || exec sed -n '2,/^[^#]/s/^#\( \|$\)//p' "$0"
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh

export TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 WANDB_MODE=offline
ruff check
ruff format --check
python -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
