# Source this file from a stage script: run_stage launches torchrun with what both stages share. Every capital name is an
# environment variable; the value given here is its default.

cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() {
    echo "train: error: $1" >&2
    exit 1
}

# A variable that is set to nothing is one that a script of the user's meant to set; without ":" nothing has a meaning.
for name in $(grep -ohE '\$\{[A-Z0-9_]+:-' scripts/stage.sh scripts/llada_v_*.sh | tr -d '${:-'); do
    [ -n "${!name-set}" ] || fail "$name is empty; give it a value, or unset it for its default"
done

NUM_NODES=${1:-1}
GPU_NUM=${2:-1}
FLAGS=("${@:3}") # further arguments of train.py, which win over all below
RANK=${RANK:-0} # of several nodes, like the two below; on one node torchrun finds a free port
MASTER_ADDR=${MASTER_ADDR:-127.0.0.1}
MASTER_PORT=${MASTER_PORT:-29199}
DEEPSPEED=${DEEPSPEED-scripts/zero3.json} # or zero1, zero2, zero3pp; empty: plain DDP
LM_PATH=${LM_PATH:-model/Qwen3-0.6B-diffusion-mdlm-v0.1}
VISION_TOWER=${VISION_TOWER-model/siglip2-so400m-patch14-384} # empty: LM_PATH is a trained model, which has one
for name in NUM_NODES GPU_NUM MASTER_PORT; do
    [[ ${!name} =~ ^[1-9][0-9]*$ ]] || fail "$name is '${!name}'; give a whole number from 1"
done
[[ $RANK =~ ^[0-9]+$ ]] || fail "RANK is '$RANK'; give the number of this node, from 0"
EXTRA_ARGS=${EXTRA_ARGS-} # the same in a variable, split at spaces

if [ -n "${CUDA_VISIBLE_DEVICES-all}" ] && command -v nvidia-smi >/dev/null; then
    BF16=${BF16:-True} TF32=${TF32:-True}
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-8}
else
    BF16=${BF16:-False} TF32=${TF32-} # TF32 is a setting of GPUs
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # processes share the cores
fi

if [ "$NUM_NODES" -gt 1 ]; then
    NODES=(--nnodes "$NUM_NODES" --node_rank "$RANK" --master_addr "$MASTER_ADDR" --master_port "$MASTER_PORT")
else
    NODES=(--standalone)
fi

run_stage() { # run_stage arguments of this stage...
    set -- "${NODES[@]}" --nproc_per_node "$GPU_NUM" llava/train/train_mem.py \
        --model_name_or_path "$LM_PATH" \
        ${VISION_TOWER:+--vision_tower "$VISION_TOWER"} \
        ${DEEPSPEED:+--deepspeed "$DEEPSPEED"} \
        ${TF32:+--tf32 "$TF32"} \
        --version "${VERSION:-qwen}" \
        --data_path "$DATA_PATH" \
        --image_folder "$IMAGE_FOLDER" \
        ${EVAL_DATA_PATH:+--eval_data_path "$EVAL_DATA_PATH" --eval_strategy steps --eval_steps "${EVAL_STEPS:-500}"} \
        --image_aspect_ratio "${IMAGE_ASPECT_RATIO:-square}" \
        ${IMAGE_GRID_PINPOINTS:+--image_grid_pinpoints "$IMAGE_GRID_PINPOINTS"} \
        ${VIDEO_FOLDER:+--video_folder "$VIDEO_FOLDER"} \
        --video_fps "${VIDEO_FPS:-1}" \
        --frames_upbound "${FRAMES_UPBOUND:-0}" \
        --mm_vision_select_layer "${MM_VISION_SELECT_LAYER:--2}" \
        --mm_projector_type "${MM_PROJECTOR_TYPE:-mlp2x_gelu}" \
        --mm_resampler_type "${MM_RESAMPLER_TYPE:-qformer}" \
        --attention_pattern "${ATTENTION_PATTERN:-block}" \
        --block_length "${BLOCK_LENGTH:-32}" \
        --gen_length "${GEN_LENGTH:-256}" \
        --noise_estimator "${NOISE_ESTIMATOR:-stratified}" \
        --model_max_length "${MODEL_MAX_LENGTH:-1024}" \
        --num_train_epochs "${NUM_TRAIN_EPOCHS:-1}" \
        --weight_decay "${WEIGHT_DECAY:-0}" \
        --warmup_steps "${WARMUP:-0.03}" \
        --lr_scheduler_type "${LR_SCHEDULER_TYPE:-cosine}" \
        --gradient_checkpointing "${GRADIENT_CHECKPOINTING:-False}" \
        --dataloader_num_workers "${DATALOADER_NUM_WORKERS:-4}" \
        --save_strategy "${SAVE_STRATEGY:-steps}" \
        --save_total_limit "${SAVE_TOTAL_LIMIT:-2}" \
        --logging_steps "${LOGGING_STEPS:-1}" \
        --report_to "${REPORT_TO:-tensorboard}" \
        --seed "${SEED:-42}" \
        --dry_run "${DRY_RUN:-False}" \
        --bf16 "$BF16" \
        "$@" "${FLAGS[@]}"
    # shellcheck disable=SC2086
    exec python -m dllm.launch torchrun "$@" $EXTRA_ARGS
}
