# Source this file from a stage script, whatever it trains, with SETTINGS, the files beside this one that have variables:
# `launch` starts a program of dllm's runs under torchrun. --help prints the script's head, and what follows here.
#
# Environment variables of every run (default):
#     NUM_TRAIN_EPOCHS             passes over the data                                     (1)
#     WARMUP                       steps of the warm-up; below 1 the share of all steps     (0.03)
#     LR_SCHEDULER_TYPE            cosine, linear, constant ...                             (cosine)
#     WEIGHT_DECAY                 of AdamW                                                 (0)
#     SEED                         of noise, order and new weights                          (42)
#     MODEL_MAX_LENGTH             tokens of prompt and response at most                    (1024)
#     ATTENTION_PATTERN            bidirectional, prefix, block, causal_block               (the model's own, or block)
#     BLOCK_LENGTH                 tokens that are written before the next ones begin       (the model's own, or 32)
#     GEN_LENGTH                   tokens of a response's canvas                            (the model's own, or 256)
#     NOISE_ESTIMATOR              stratified, pair, single, uniform, whole_blocks, draft, seed_literal    (stratified)
#     SAVE_STRATEGY                steps, epoch or no                                       (steps)
#     SAVE_TOTAL_LIMIT             checkpoints that are kept                                (2)
#     LOGGING_STEPS                steps from one log to the next                           (1)
#     REPORT_TO                    tensorboard, wandb or none                               (tensorboard)
#     DATALOADER_NUM_WORKERS       processes that read data for each one that trains        (4)
#     GRADIENT_CHECKPOINTING       True: less memory, more time                             (False)
#     BF16, TF32                   precision of a step                                      (True on GPUs, else False)
#     DRY_RUN                      True: print what the run would do and take, then stop    (False)
#     EXTRA_ARGS                   further flags of the program, split at spaces            (none)
#     RANK                         of several nodes: the number of this one                 (0)
#     MASTER_ADDR, MASTER_PORT     of several nodes: where the first one listens            (127.0.0.1, 29199)

TRAIN=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

fail() {
    echo "train: error: $1" >&2
    exit 1
}

if [[ " $* " = *" --help "* ]]; then
    folder=$(dirname "${SETTINGS[0]}")
    sed -n '2,/^[^#]/s/^#\( \|$\)//p' "$folder/$(basename "$0")"
    exec sed -sn '1,/^[^#]/{s/^# \(  \|Env\)/\1/p;s/^#$//p}' "$folder/stage.sh" "$TRAIN/scripts/launch.sh"
fi

# A variable that is set to nothing is one that a script of the user's meant to set; without ":" nothing has a meaning.
for name in $(grep -ohE '\$\{[A-Z0-9_]+:-' "${SETTINGS[@]}" "$TRAIN/scripts/launch.sh" | tr -d '${:-'); do
    [ -n "${!name-set}" ] || fail "$name is empty; give it a value, or unset it for its default"
done

NUM_NODES=${1:-1}
GPU_NUM=${2:-1}
FLAGS=("${@:3}") # further arguments of the program, which win over all below
RANK=${RANK:-0} # of several nodes, like the two below; on one node torchrun finds a free port
MASTER_ADDR=${MASTER_ADDR:-127.0.0.1}
MASTER_PORT=${MASTER_PORT:-29199}
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

launch() { # launch program arguments of this stage...
    local program=$1
    shift
    set -- "${NODES[@]}" --nproc_per_node "$GPU_NUM" "$program" \
        ${DEEPSPEED:+--deepspeed "$DEEPSPEED"} \
        ${TF32:+--tf32 "$TF32"} \
        ${ATTENTION_PATTERN+--attention_pattern "$ATTENTION_PATTERN"} \
        ${BLOCK_LENGTH+--block_length "$BLOCK_LENGTH"} \
        ${GEN_LENGTH+--gen_length "$GEN_LENGTH"} \
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
