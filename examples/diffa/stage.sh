# Source this file from a stage script: run_stage launches training with what both stages share. Every capital name is an
# environment variable; the value given here, or in train/scripts/launch.sh, is its default. Paths are relative to the
# folder that you are in.

HERE=$(dirname "${BASH_SOURCE[0]}")
SETTINGS=("$HERE"/stage.sh "$HERE"/train_stage?.sh)
source "$HERE/../../train/scripts/launch.sh"

DEEPSPEED=${DEEPSPEED-$TRAIN/scripts/zero1.json} # empty: plain DDP
ATTENTION_PATTERN=${ATTENTION_PATTERN:-bidirectional}
MODEL_MAX_LENGTH=${MODEL_MAX_LENGTH:-2048}
NUM_TRAIN_EPOCHS=${NUM_TRAIN_EPOCHS:-10}
WEIGHT_DECAY=${WEIGHT_DECAY:-0.05}
LR_SCHEDULER_TYPE=${LR_SCHEDULER_TYPE:-linear}
SAVE_STRATEGY=${SAVE_STRATEGY:-epoch}
LOGGING_STEPS=${LOGGING_STEPS:-20}
SEED=${SEED:-1}

run_stage() { # run_stage arguments of this stage...
    launch "$TRAIN/diffa/train/train.py" \
        --llm_model "${LLM_MODEL:-model/LLaDA-8B-Instruct}" \
        --whisper_model "${WHISPER_MODEL:-model/whisper-small}" \
        ${STAGE1_CKPT:+--stage1_ckpt "$STAGE1_CKPT"} \
        ${TUNABLE_PARTS:+--tunable_parts "$TUNABLE_PARTS"} \
        ${LANGUAGE_MODEL_LR:+--language_model_lr "$LANGUAGE_MODEL_LR"} \
        --train_dataset_path "$TRAIN_DATASET_PATH" \
        ${EVAL_DATASET_PATH:+--eval_dataset_path "$EVAL_DATASET_PATH" --eval_strategy "${EVAL_STRATEGY:-epoch}"} \
        --cut_long_audio "${CUT_LONG_AUDIO:-False}" \
        --num_prompts "${NUM_PROMPTS:-20}" \
        --prompt_size "${PROMPT_SIZE:-64}" \
        ${ACOUSTIC_LAYERS:+--acoustic_layers "$ACOUSTIC_LAYERS"} \
        --acoustic_intermediate_size "${ACOUSTIC_INTERMEDIATE_SIZE:-3072}" \
        --mask_padding "${MASK_PADDING:-True}" \
        --lora_enable "${LORA_ENABLE:-False}" \
        --lora_r "${LORA_R:-64}" \
        --lora_alpha "${LORA_ALPHA:-16}" \
        --lora_dropout "${LORA_DROPOUT:-0}" \
        "$@"
}
