#!/usr/bin/env bash
# Stage 1: resampler and projector learn on image-caption pairs; encoder and language model are frozen.
#
#     cd train && bash scripts/llada_v_pretrain.sh <num_nodes> <gpu_num> [--flag value ...]
#
# Writes $OUTPUT_DIR/mm_projector.safetensors. Settings are environment variables; a flag wins over them, and
# `cd train && python -m llava.train.train --help` lists all.
#
# Environment variables of this stage (default):
#     DATA_PATH                    LLaVA JSON file                                          (data/llava_pretrain/blip_laion_cc_sbu_558k.json)
#     IMAGE_FOLDER                 folder of its images                                     (data/llava_pretrain/images)
#     OUTPUT_DIR                   folder that is written; the same command goes on in it   (exp/llada_v_pretrain)
#     MM_TUNABLE_PARTS             parts that learn                                         (mm_vision_resampler,mm_mlp_adapter)
#     LEARNING_RATE                the highest, after the warm-up                           (1e-3)
#     BATCH_SIZE                   samples that a process reads together                    (16)
#     GRADIENT_ACCUMULATION_STEPS  times that it does so in a step                          (1)
#     SAVE_STEPS                   steps from one checkpoint to the next                    (50000)
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
