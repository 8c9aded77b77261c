#!/usr/bin/env bash
#SBATCH --job-name=train
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --output=%x-%j.out
# Runs a training program on all nodes of a SLURM job, or without SLURM on this machine, through `accelerate launch`.
#
#     sbatch --nodes=2 --gpus-per-node=8 scripts/train.slurm.sh \
#         --accelerate_config fsdp --script_path train/llava/train/train_mem.py --model_name_or_path DIR ...
#
# Start it in the root of the repository, with the Python environment active; paths count from there.
#     --accelerate_config NAME  a file of scripts/accelerate_configs: ddp, deepspeed, fsdp           (required)
#     --script_path FILE        the program, which gets all other arguments; its --help lists them   (required)
# Environment variables:
#     GPU_NUM                   processes on each node                                               (its GPUs, or 1)
#     MASTER_PORT               port of the first node                                               (by the job)
set -euo pipefail
[[ " $* " != *" --help "* ]] || exec sed -n '2,/^[^#]/s/^#\( \|$\)//p' "$0"

fail() {
    echo "train.slurm: error: $1" >&2
    exit 1
}

cd "${SLURM_SUBMIT_DIR:-$(dirname "${BASH_SOURCE[0]}")/..}" # SLURM runs a copy of this file from elsewhere
CONFIGS=scripts/accelerate_configs
[ -d "$CONFIGS" ] || fail "$PWD has no $CONFIGS; start sbatch in the root of the repository"

NAME='' SCRIPT='' ARGUMENTS=()
while [ $# -gt 0 ]; do
    case $1 in
        --accelerate_config) NAME=${2-} ;;
        --script_path) SCRIPT=${2-} ;;
        *)
            ARGUMENTS+=("$1")
            shift
            continue
            ;;
    esac
    shift $(($# > 1 ? 2 : 1))
done
KNOWN=$(cd "$CONFIGS" && printf '%s, ' *.yaml | sed 's/\.yaml//g; s/, $//')
[ -f "$CONFIGS/$NAME.yaml" ] || fail "unknown --accelerate_config '$NAME'; known: $KNOWN"
[ -f "$SCRIPT" ] || fail "--script_path '$SCRIPT' is not a file; give a program, such as train/llava/train/train_mem.py"

NUM_NODES=${SLURM_NNODES:-1}
GPU_NUM=${GPU_NUM:-${SLURM_GPUS_ON_NODE:-$(python -c 'import torch; print(max(1, torch.cuda.device_count()))')}}
for name in NUM_NODES GPU_NUM; do
    [[ ${!name} =~ ^[1-9][0-9]*$ ]] || fail "$name is '${!name}'; give a whole number from 1"
done
MASTER_ADDR=127.0.0.1
MASTER_PORT=${MASTER_PORT:-$((20000 + ${SLURM_JOB_ID:-9199} % 10000))} # jobs that share a node need ports of their own
LAUNCH=(accelerate launch --machine_rank 0)
if [ -n "${SLURM_JOB_ID:-}" ]; then
    MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
    LAUNCH=(srun --nodes "$NUM_NODES" --ntasks "$NUM_NODES" --ntasks-per-node 1 --kill-on-bad-exit=1
        ${SLURM_CPUS_PER_TASK:+--cpus-per-task "$SLURM_CPUS_PER_TASK"}
        bash -c 'exec accelerate launch --machine_rank "$SLURM_NODEID" "$@"' accelerate)
fi

exec python -m dllm.launch "${LAUNCH[@]}" --config_file "$CONFIGS/$NAME.yaml" --num_machines "$NUM_NODES" \
    --num_processes $((NUM_NODES * GPU_NUM)) --main_process_ip "$MASTER_ADDR" --main_process_port "$MASTER_PORT" \
    "$SCRIPT" "${ARGUMENTS[@]}"
