#!/usr/bin/env bash
# The tests of core, pipelines and models under the oldest transformers that train/pyproject.toml takes, which is put
# into a folder of its own beside the environment.
#
#     bash scripts/test_oldest.sh [arguments of pytest]
set -euo pipefail
[[ " $* " != *" --help "* ]] || exec sed -n '2,/^[^#]/s/^#\( \|$\)//p' "$0"
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh

oldest=$(sed -n 's/.*"transformers>=\([0-9.]*\),.*/\1/p' train/pyproject.toml)
packages=$VENV/transformers-$oldest
[[ -d $packages/transformers ]] || python -m pip install -q --target "$packages" "transformers==$oldest.*"
export PYTHONPATH=$packages TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 WANDB_MODE=offline
python -c 'import transformers; print("transformers", transformers.__version__)'
python -m pytest tests/dllm_core tests/dllm_pipelines tests/llava_model "$@"
