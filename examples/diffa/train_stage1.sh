#!/usr/bin/env bash
# Stage 1: the semantic adapter learns to transcribe; Whisper and the language model are frozen.
#
#     bash examples/diffa/train_stage1.sh <num_nodes> <gpu_num> [--flag value ...]
#
# Writes the adapter to $OUTPUT_DIR. DIFFA had 4 GPUs. Settings are environment variables, here and in stage.sh.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/stage.sh"

TRAIN_DATASET_PATH=${TRAIN_DATASET_PATH:-data/librispeech_train_960/train.json}
WARMUP=${WARMUP:-1000}
SAVE_TOTAL_LIMIT=${SAVE_TOTAL_LIMIT:-5}

run_stage \
    --training_stage 1 \
    --learning_rate "${LEARNING_RATE:-1e-4}" \
    --per_device_train_batch_size "${BATCH_SIZE:-16}" \
    --gradient_accumulation_steps "${GRADIENT_ACCUMULATION_STEPS:-2}" \
    --output_dir "${OUTPUT_DIR:-exp/stage1}"
