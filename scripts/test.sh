#!/usr/bin/env bash
# bash scripts/test.sh [pytest arguments]: the environment, the style checks, then the tests, two files at a time.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh

export TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 WANDB_MODE=offline
ruff check
ruff format --check
python -m pytest -n 2 --dist loadfile "$@"
