#!/usr/bin/env bash
# From a fresh clone to a report for an image of your own.
#
#     bash docs/path_own_image.sh IMAGE                    # by the quickstart's model, which has seen phantom images alone
#     MODEL_PATH=DIR bash docs/path_own_image.sh IMAGE     # by a model of yours
set -euo pipefail
[ $# -eq 1 ] || { echo "error: give one image: bash docs/path_own_image.sh IMAGE" >&2; exit 2; }
image=$(realpath "$1")
cd "$(dirname "${BASH_SOURCE[0]}")/.."

source scripts/environment.sh # .venv, made the first time
if [ -z "${MODEL_PATH:-}" ]; then
    python scripts/quickstart.py --out exp/quickstart
    MODEL_PATH=exp/quickstart/distilled
fi
python generate_demo.py --model_path "$MODEL_PATH" --image "$image"
