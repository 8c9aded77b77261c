# Source this file from a stage script, whatever it trains, with SETTINGS, the files beside this one that have variables:
# `launch` starts a program of dllm's runs under torchrun. Every capital name below is an environment variable; the value
# given here is its default, unless the script has set another.

TRAIN=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$TRAIN/scripts/run_and_tell.sh"

# A variable that is set to nothing is one that a script of the user's meant to set; without ":" nothing has a meaning.
for name in $(grep -ohE '\$\{[A-Z0-9_]+:-' "${SETTINGS[@]}" "$TRAIN/scripts/launch.sh" | tr -d '${:-'); do
    if [ -z "${!name-set}" ]; then
        echo "train: error: $name is empty; give it a value, or unset it for its default" >&2
        exit 1
    fi
done

NUM_NODES=${1:-1}
GPU_NUM=${2:-1}
FLAGS=("${@:3}") # further arguments of the program, which win over all below
RANK=${RANK:-0} # of several nodes, like the two below; on one node torchrun finds a free port
MASTER_ADDR=${MASTER_ADDR:-127.0.0.1}
MASTER_PORT=${MASTER_PORT:-29199}
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

launch() { # launch program arguments of this stage...
    local program=$1
    shift
    set -- "${NODES[@]}" --nproc_per_node "$GPU_NUM" "$program" \
        ${DEEPSPEED:+--deepspeed "$DEEPSPEED"} \
        ${TF32:+--tf32 "$TF32"} \
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
    run_and_tell torchrun "$@" $EXTRA_ARGS
}
