# Source this file from a stage script: run_stage launches training with what both stages share. Paths are relative to the
# folder that you are in.
#
# Environment variables of both stages (default), beside those of every run:
#     LLM_MODEL                    folder of the language model                             (model/LLaDA-8B-Instruct)
#     WHISPER_MODEL                folder of the Whisper whose encoder is used              (model/whisper-small)
#     EVAL_DATASET_PATH            JSON file of validation                                  (none)
#     EVAL_STRATEGY                with it: epoch or steps                                  (epoch)
#     TUNABLE_PARTS                parts that learn, joined by commas                       (the stage's adapters)
#     LANGUAGE_MODEL_LR            learning rate of the language model, if it learns        (LEARNING_RATE)
#     CUT_LONG_AUDIO               True: hear the beginning of clips that are too long      (False)
#     NUM_PROMPTS                  learnt tokens before a clip's own in stage 1             (20)
#     PROMPT_SIZE                  acoustic tokens of a clip                                (64)
#     ACOUSTIC_LAYERS              states that the acoustic adapter hears, as 2,5,8,11      (spread over all)
#     ACOUSTIC_INTERMEDIATE_SIZE   width between its linear layers                          (3072)
#     MASK_PADDING                 it does not hear the silence after a clip                (True)
#     DEEPSPEED                    its JSON file; empty: plain DDP                          (train/scripts/zero1.json)
#     LORA_ENABLE                  True: an adapter of the language model learns            (False)
#     LORA_R, LORA_ALPHA           its rank, and its scaling, alpha / rank                  (64, 16)
#     LORA_DROPOUT                 of its input                                             (0)
#     MODEL_MAX_LENGTH 2048, NUM_TRAIN_EPOCHS 10, WEIGHT_DECAY 0.05, LR_SCHEDULER_TYPE linear, SAVE_STRATEGY epoch,
#     LOGGING_STEPS 20, SEED 1, ATTENTION_PATTERN bidirectional in the place of the defaults below

HERE=$(dirname "${BASH_SOURCE[0]}")
SETTINGS=("$HERE"/stage.sh "$HERE"/train_stage?.sh)
source "$HERE/../../train/scripts/launch.sh"

DEEPSPEED=${DEEPSPEED-$TRAIN/scripts/zero1.json} # empty: plain DDP
MODEL_MAX_LENGTH=${MODEL_MAX_LENGTH:-2048}
NUM_TRAIN_EPOCHS=${NUM_TRAIN_EPOCHS:-10}
WEIGHT_DECAY=${WEIGHT_DECAY:-0.05}
LR_SCHEDULER_TYPE=${LR_SCHEDULER_TYPE:-linear}
SAVE_STRATEGY=${SAVE_STRATEGY:-epoch}
LOGGING_STEPS=${LOGGING_STEPS:-20}
SEED=${SEED:-1}

run_stage() { # run_stage arguments of this stage...
    launch "$TRAIN/diffa/train/train_mem.py" \
        --llm_model "${LLM_MODEL:-model/LLaDA-8B-Instruct}" \
        --whisper_model "${WHISPER_MODEL:-model/whisper-small}" \
        ${STAGE1_CKPT:+--stage1_ckpt "$STAGE1_CKPT"} \
        ${TUNABLE_PARTS:+--tunable_parts "$TUNABLE_PARTS"} \
        ${LANGUAGE_MODEL_LR:+--language_model_lr "$LANGUAGE_MODEL_LR"} \
        --train_dataset_path "$TRAIN_DATASET_PATH" \
        ${EVAL_DATASET_PATH:+--eval_dataset_path "$EVAL_DATASET_PATH" --eval_strategy "${EVAL_STRATEGY:-epoch}"} \
        --cut_long_audio "${CUT_LONG_AUDIO:-False}" \
        ${NUM_PROMPTS+--num_prompts "$NUM_PROMPTS"} \
        ${PROMPT_SIZE+--prompt_size "$PROMPT_SIZE"} \
        ${ACOUSTIC_LAYERS:+--acoustic_layers "$ACOUSTIC_LAYERS"} \
        ${ACOUSTIC_INTERMEDIATE_SIZE+--acoustic_intermediate_size "$ACOUSTIC_INTERMEDIATE_SIZE"} \
        ${MASK_PADDING+--mask_padding "$MASK_PADDING"} \
        --lora_enable "${LORA_ENABLE:-False}" \
        --lora_r "${LORA_R:-64}" \
        --lora_alpha "${LORA_ALPHA:-16}" \
        --lora_dropout "${LORA_DROPOUT:-0}" \
        "$@"
}
