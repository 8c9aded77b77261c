#!/usr/bin/env bash
# Stage 2: everything learns on radiology reports, from the adapter of stage 1.
#
#     cd train && bash scripts/llada_v_finetune.sh <num_nodes> <gpu_num> [--flag value ...]
#
# LORA_ENABLE=True LEARNING_RATE=2e-4: an adapter of the language model learns in its stead, and is merged when saved.
# With LM_PATH=<trained model> it goes on from a model that has everything, with that model's own settings.
# Writes a whole model to $OUTPUT_DIR. Settings are environment variables; a flag wins over them, and
# `cd train && python -m llava.train.train --help` lists all.
#
# Environment variables of this stage (default):
#     DATA_PATH                    LLaVA JSON file                                          (../data/mimic_cxr/train_llava_llada.json)
#     IMAGE_FOLDER                 folder of its images                                     (../data/mimic_cxr/images)
#     OUTPUT_DIR                   folder that is written; the same command goes on in it   (exp/llada_v_finetune)
#     PRETRAIN_MM_MLP_ADAPTER      adapter of stage 1; a trained model has its own          (exp/llada_v_pretrain/mm_projector.safetensors)
#     MM_TUNABLE_PARTS             parts that learn                                         (mm_vision_tower,mm_vision_resampler,mm_mlp_adapter,mm_language_model)
#     LEARNING_RATE                the highest, after the warm-up                           (1e-5)
#     MM_VISION_TOWER_LR           the same of the encoder                                  (2e-6)
#     BATCH_SIZE                   samples that a process reads together                    (1)
#     GRADIENT_ACCUMULATION_STEPS  times that it does so in a step                          (2)
#     SAVE_STEPS                   steps from one checkpoint to the next                    (5000)
#     LORA_ENABLE                  True: an adapter of the language model learns            (False)
#     LORA_R, LORA_ALPHA           its rank, and its scaling, alpha / rank                  (64, 16)
#     LORA_DROPOUT                 of its input                                             (0)
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/stage.sh"

DATA_PATH=${DATA_PATH-../data/mimic_cxr/train_llava_llada.json}
IMAGE_FOLDER=${IMAGE_FOLDER-../data/mimic_cxr/images}

PRETRAIN_MM_MLP_ADAPTER=${PRETRAIN_MM_MLP_ADAPTER-exp/llada_v_pretrain/mm_projector.safetensors}

run_stage \
    ${PRETRAIN_MM_MLP_ADAPTER:+--pretrain_mm_mlp_adapter "$PRETRAIN_MM_MLP_ADAPTER"} \
    --mm_tunable_parts "${MM_TUNABLE_PARTS:-mm_vision_tower,mm_vision_resampler,mm_mlp_adapter,mm_language_model}" \
    --lora_enable "${LORA_ENABLE:-False}" \
    --lora_r "${LORA_R:-64}" \
    --lora_alpha "${LORA_ALPHA:-16}" \
    --lora_dropout "${LORA_DROPOUT:-0}" \
    --learning_rate "${LEARNING_RATE:-1e-5}" \
    --mm_vision_tower_lr "${MM_VISION_TOWER_LR:-2e-6}" \
    --per_device_train_batch_size "${BATCH_SIZE:-1}" \
    --gradient_accumulation_steps "${GRADIENT_ACCUMULATION_STEPS:-2}" \
    --save_steps "${SAVE_STEPS:-5000}" \
    --output_dir "${OUTPUT_DIR:-exp/llada_v_finetune}"
