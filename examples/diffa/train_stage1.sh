#!/usr/bin/env bash
# Stage 1: the semantic adapter learns to transcribe; Whisper and the language model are frozen.
#
#     bash examples/diffa/train_stage1.sh <num_nodes> <gpu_num> [--flag value ...]
#
# Writes the adapter to $OUTPUT_DIR. DIFFA had 4 GPUs. Settings are environment variables; a flag wins
# over them.
#
# Environment variables of this stage (default):
#     TRAIN_DATASET_PATH           JSON file of questions about clips                       (data/librispeech_train_960/train.json)
#     OUTPUT_DIR                   folder that is written; the same command goes on in it   (exp/stage1)
#     STAGE1_CKPT                  output folder of a run to go on from                     (none)
#     LEARNING_RATE                the highest, after the warm-up                           (1e-4)
#     BATCH_SIZE                   samples that a process reads together                    (16)
#     GRADIENT_ACCUMULATION_STEPS  times that it does so in a step                          (2)
#     WARMUP                       steps of the warm-up; below 1 the share of all steps     (1000)
#     SAVE_TOTAL_LIMIT             checkpoints that are kept                                (5)
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
