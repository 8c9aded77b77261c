#!/usr/bin/env bash
# One card of 24 GB: LoRA on a trained model, the adapter merged as it is saved, a report.
#
#     bash docs/path_24gb.sh MODEL DATA_JSON IMAGES OUT IMAGE
#
# The encoder stays frozen. BATCH_SIZE and all other settings are the environment variables of train/scripts.
set -euo pipefail
[ $# -eq 5 ] || { sed -n '2,6s/^# \{0,1\}//p' "$0" >&2; exit 2; }
export LM_PATH DATA_PATH IMAGE_FOLDER OUTPUT_DIR
LM_PATH=$(realpath "$1") DATA_PATH=$(realpath "$2") IMAGE_FOLDER=$(realpath "$3") OUTPUT_DIR=$(realpath -m "$4")
image=$(realpath "$5")
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export VISION_TOWER= PRETRAIN_MM_MLP_ADAPTER= DEEPSPEED= # the model has both; one process has nothing to share
export LORA_ENABLE=True LEARNING_RATE=${LEARNING_RATE:-2e-4} BATCH_SIZE=${BATCH_SIZE:-4}
export MM_TUNABLE_PARTS=${MM_TUNABLE_PARTS:-mm_vision_resampler,mm_mlp_adapter,mm_language_model}
DRY_RUN=True bash train/scripts/llada_v_finetune.sh 1 1 # what it will take
bash train/scripts/llada_v_finetune.sh 1 1
python generate_demo.py --model_path "$OUTPUT_DIR" --image "$image"
