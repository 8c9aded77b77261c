#!/usr/bin/env bash
# Stage 2: both adapters learn to answer questions about clips, from the adapter of stage 1.
#
#     bash examples/diffa/train_stage2.sh <num_nodes> <gpu_num> [--flag value ...]
#
# TUNABLE_PARTS=semantic_adapter,acoustic_adapter,language_model LORA_ENABLE=True: an adapter of the language model learns
# too, and is merged when saved. DIFFA had 4 GPUs. Writes to $OUTPUT_DIR. Settings are environment variables; a flag wins
# over them.
#
# Environment variables of this stage (default):
#     TRAIN_DATASET_PATH           JSON file of questions about clips                       (data/qwen3_ans/final_train.json)
#     OUTPUT_DIR                   folder that is written; the same command goes on in it   (exp/stage2)
#     STAGE1_CKPT                  output folder of stage 1, or of a run to go on from      (exp/stage1)
#     LEARNING_RATE                the highest, after the warm-up                           (5e-5)
#     BATCH_SIZE                   samples that a process reads together                    (4)
#     GRADIENT_ACCUMULATION_STEPS  times that it does so in a step                          (2)
#     WARMUP                       steps of the warm-up; below 1 the share of all steps     (2000)
#     SAVE_TOTAL_LIMIT             checkpoints that are kept                                (1)
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/stage.sh"

TRAIN_DATASET_PATH=${TRAIN_DATASET_PATH:-data/qwen3_ans/final_train.json}
STAGE1_CKPT=${STAGE1_CKPT:-exp/stage1}
WARMUP=${WARMUP:-2000}
SAVE_TOTAL_LIMIT=${SAVE_TOTAL_LIMIT:-1}

run_stage \
    --training_stage 2 \
    --learning_rate "${LEARNING_RATE:-5e-5}" \
    --per_device_train_batch_size "${BATCH_SIZE:-4}" \
    --gradient_accumulation_steps "${GRADIENT_ACCUMULATION_STEPS:-2}" \
    --output_dir "${OUTPUT_DIR:-exp/stage2}"
