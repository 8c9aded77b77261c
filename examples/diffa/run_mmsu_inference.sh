#!/usr/bin/env bash
# Answers the questions of MMSU and scores them, beside shuffled audio and no audio.
#
#     bash examples/diffa/run_mmsu_inference.sh [--flag value ...]     # flags of inference_stage2_mmsu.py
#
# The same command after an interruption goes on. Environment variables:
#     MODEL_PATH      trained model                                            (exp/stage2)
#     LLM_PATH        language model that its adapter was trained with         (as the adapter names it)
#     WHISPER_PATH    Whisper that it was trained with                         (as the adapter names it)
#     INPUT_JSONL     questions as published                                   (data/mmsu/question/mmsu.jsonl)
#     OUTPUT_JSONL    the answers                                              (results/mmsu.jsonl)
#     STEPS, BLOCK_LENGTH, MAX_NEW_TOKENS                                      (4 each)
#     ANSWERS         letter, or text: what the model was trained to answer    (letter)
set -euo pipefail
[[ " $* " != *" --help "* ]] || exec sed -n '2,/^[^#]/s/^#\( \|$\)//p' "$0"
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
PYTHON=${PYTHON:-python}
OUTPUT_JSONL=${OUTPUT_JSONL:-results/mmsu.jsonl}
ANSWERS=${ANSWERS:-letter}

"$PYTHON" "$HERE/inference_stage2_mmsu.py" \
    --model_path "${MODEL_PATH:-exp/stage2}" \
    ${LLM_PATH:+--llm_path "$LLM_PATH"} \
    ${WHISPER_PATH:+--whisper_path "$WHISPER_PATH"} \
    --input_jsonl "${INPUT_JSONL:-data/mmsu/question/mmsu.jsonl}" \
    --output_jsonl "$OUTPUT_JSONL" \
    --steps "${STEPS:-4}" \
    --block_length "${BLOCK_LENGTH:-4}" \
    --max_new_tokens "${MAX_NEW_TOKENS:-4}" \
    --answers "$ANSWERS" \
    "$@"
"$PYTHON" "$HERE/mmsu/evaluate.py" "$OUTPUT_JSONL" --answers "$ANSWERS"
