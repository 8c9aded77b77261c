#!/usr/bin/env bash
# Score checkpoints on the MIMIC-CXR test set: one table of all scores beside the baselines, with intervals, and a page
# of studies for each checkpoint.
#
#     cd eval && bash scripts/evaluate.sh [CHECKPOINT_FOLDER ...]
#     cd eval && bash scripts/evaluate.sh --check      # only whether this machine has all that scoring needs (seconds)
#
# Every run has a folder in OUTPUT_PATH that is named by all that its reports depend on. The same command after an
# interruption goes on in it; a run that is complete is not repeated.
# Environment variables:
#     MODEL_PATHS           checkpoint folders, separated by spaces, if no argument names them
#     MODEL_PATH            one checkpoint folder                                   (train/exp/llada_v_finetune)
#     MIMIC_CXR_DATA        folder of test_, train_ and val_llava_llada.json        (data/mimic_cxr)
#     MIMIC_CXR_IMAGES      folder of the images                                    (images in MIMIC_CXR_DATA)
#     CUDA_VISIBLE_DEVICES  one process per visible GPU; without a GPU one process on the CPU
#     NUM_PROCESSES         another number of processes
#     BATCH_SIZE            requests generated together                             (8)
#     DTYPE                 float32, bfloat16 or float16                            (bfloat16 on a GPU, else float32)
#     GEN_KWARGS            generation arguments as k=v,k=v                         (the checkpoint's own)
#     LIMIT                 score the first LIMIT studies only                      (all)
#     FINDING_F1            1: also the finding F1, for phantom images
#     ALLOW_BLANK_IMAGES    1: let images pass that show nothing
#     CLINICAL              1: also CheXbert F1, RadGraph F1 and RadCliQ            (eval/lmms-eval/README.md)
#     OUTPUT_PATH           folder of the results, which hold report text           (eval/results)
#     PYTHON                Python of the environment                               (that of .venv, or python3)
set -euo pipefail
[[ " $* " != *" --help "* ]] || exec sed -n '2,/^[^#]/s/^#\( \|$\)//p' "$0"
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"

fail() {
    echo "error: $*" >&2
    exit 1
}

for name in MODEL_PATHS MODEL_PATH MIMIC_CXR_DATA MIMIC_CXR_IMAGES NUM_PROCESSES BATCH_SIZE DTYPE GEN_KWARGS LIMIT \
    OUTPUT_PATH PYTHON; do
    [ -n "${!name-set}" ] || fail "$name is empty; give it a value, or unset it for its default"
done
for model in "$@"; do
    [ -n "$model" ] || fail "an argument is empty; give checkpoint folders, or nothing for MODEL_PATH"
done

if [ -z "${PYTHON:-}" ]; then
    PYTHON="${VENV:-$ROOT/.venv}/bin/python"
    [ -x "$PYTHON" ] || PYTHON=python3
fi

check_machine() {
    local said status=0
    command -v java > /dev/null || fail "METEOR needs Java: install it (apt: openjdk-17-jre-headless)"
    said="$("$PYTHON" "$ROOT/eval/scripts/rehearsal.py" 2>&1)" || status=$?
    [ "$status" -le 128 ] || fail "stopped by signal $((status - 128)) before the evaluation began; start again"
    if [ "$status" -ne 0 ]; then
        said="${said##*$'\n'}"
        fail "$PYTHON cannot score: ${said#error: }; install what eval/lmms-eval/README.md says"
    fi
}

if [ "${1:-}" = --check ]; then
    check_machine
    exit
fi

if [ $# -gt 0 ]; then
    models=("$@")
elif [ -n "${MODEL_PATHS:-}" ]; then
    read -r -d '' -a models <<< "$MODEL_PATHS" || true  # it fails at the end of the text
else
    models=("${MODEL_PATH:-$ROOT/train/exp/llada_v_finetune}")
fi
export MIMIC_CXR_DATA="${MIMIC_CXR_DATA:-$ROOT/data/mimic_cxr}"
export MIMIC_CXR_IMAGES="${MIMIC_CXR_IMAGES:-$MIMIC_CXR_DATA/images}"
OUTPUT_PATH="${OUTPUT_PATH:-$ROOT/eval/results}"

# lmms_eval loads the model before it looks for anything else, so look first.
for model in "${models[@]}"; do
    [ -f "$model/config.json" ] || fail "$model: no config.json; give the folder of a trained checkpoint"
    compgen -G "$model/*.safetensors" > /dev/null || fail "$model: no weights (*.safetensors); give a whole checkpoint"
done
for split in test train; do
    file="$MIMIC_CXR_DATA/${split}_llava_llada.json"
    [ -f "$file" ] || fail "$file: no such file; make it with convert_data.py or set MIMIC_CXR_DATA"
done
[ -d "$MIMIC_CXR_IMAGES" ] || fail "$MIMIC_CXR_IMAGES: no such image folder; set MIMIC_CXR_IMAGES"
for name in LIMIT BATCH_SIZE NUM_PROCESSES; do
    [[ "${!name:-1}" =~ ^[1-9][0-9]*$ ]] || fail "$name=${!name}: give a whole number from 1"
done
[[ "${GEN_KWARGS:-}" != *"{"* ]] || fail "GEN_KWARGS=$GEN_KWARGS: write k=v,k=v, lmms_eval takes no JSON here"
check_machine

gpus="$("$PYTHON" -c "import torch; print(torch.cuda.device_count())")"
processes="${NUM_PROCESSES:-$((gpus > 0 ? gpus : 1))}"
launch=("$PYTHON" -m accelerate.commands.accelerate_cli launch --num_machines 1 --num_processes "$processes"
    --mixed_precision no --dynamo_backend no --main_process_port 0)
if [ "$processes" -gt 1 ]; then
    launch+=(--multi_gpu)  # the launcher's --cpu starts one process only; on CPUs the variable decides
    [ "$gpus" -gt 0 ] || launch=(env ACCELERATE_USE_CPU=true "${launch[@]}")
else
    launch+=(--quiet)
    [ "$gpus" -gt 0 ] || launch+=(--cpu)
fi

: "${DTYPE:=$( ((gpus)) && echo bfloat16 || echo float32)}"
runs=() failed=()
for model in "${models[@]}"; do
    settings=("dtype=$DTYPE" "gen_kwargs=${GEN_KWARGS:-}" "limit=${LIMIT:-}" "on_gpu=$((gpus > 0))")
    name="$("$PYTHON" -m report_scores name "$model" "${settings[@]}")" || exit 1
    run="$OUTPUT_PATH/$name"
    if "$PYTHON" -m report_scores complete "$run" 2> /dev/null; then
        echo "$model: complete in $run"
        runs+=("$run")
        continue
    fi
    mkdir -p "$run" || fail "$run: cannot be written; set OUTPUT_PATH"
    command=("${launch[@]}" -m lmms_eval --model llava_oneversion_qwen
        --model_args "pretrained=$model,conv_template=qwen,dtype=$DTYPE,reports=$run/reports"
        --tasks mimic_cxr --batch_size "${BATCH_SIZE:-8}" --output_path "$run" --log_samples)
    [ -z "${GEN_KWARGS:-}" ] || command+=(--gen_kwargs "$GEN_KWARGS")
    [ -z "${LIMIT:-}" ] || command+=(--limit $((2 * LIMIT)))  # a study is two documents
    # In the background, so that a signal to this script reaches it.
    "$PYTHON" -m dllm.launch --log "$run/output.log" "${command[@]}" &
    trap 'kill -TERM $! 2> /dev/null' TERM INT HUP
    status=0
    wait $! || status=$?
    while kill -0 $! 2> /dev/null; do wait $! || true; done
    trap - TERM INT HUP
    [ "$status" -le 128 ] || exit "$status"
    if [ "$status" -eq 0 ] && "$PYTHON" -m report_scores complete "$run"; then
        runs+=("$run")
    else
        [ ${#models[@]} -gt 1 ] || exit 1  # the last line says why
        failed+=("$model")
    fi
done
if [ ${#runs[@]} -gt 0 ]; then
    "$PYTHON" -m report_scores report ${FINDING_F1:+--finding_f1} ${CLINICAL:+--clinical} "${runs[@]}" || exit 1
fi
[ ${#failed[@]} -eq 0 ] || fail "no complete scores for ${failed[*]}; see above"
