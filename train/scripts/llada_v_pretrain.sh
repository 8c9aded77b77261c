#!/usr/bin/env bash
# Stage 1: resampler and projector learn on image-caption pairs; encoder and language model are frozen.
#
#     cd train && bash scripts/llada_v_pretrain.sh <num_nodes> <gpu_num> [--flag value ...]
#
# Writes $OUTPUT_DIR/mm_projector.safetensors. Settings are environment variables, here and in stage.sh.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/stage.sh"

DATA_PATH=${DATA_PATH-data/llava_pretrain/blip_laion_cc_sbu_558k.json}
IMAGE_FOLDER=${IMAGE_FOLDER-data/llava_pretrain/images}

run_stage \
    --mm_tunable_parts "${MM_TUNABLE_PARTS:-mm_vision_resampler,mm_mlp_adapter}" \
    --learning_rate "${LEARNING_RATE:-1e-3}" \
    --per_device_train_batch_size "${BATCH_SIZE:-16}" \
    --gradient_accumulation_steps "${GRADIENT_ACCUMULATION_STEPS:-1}" \
    --save_steps "${SAVE_STEPS:-50000}" \
    --output_dir "${OUTPUT_DIR:-exp/llada_v_pretrain}"
