#!/usr/bin/env bash
# The main job on a cluster's node: convert -> stage 1 -> stage 2 -> evaluate, in the active Python environment.
#
#     bash docs/path_cluster.sh ANNOTATION IMAGES LANGUAGE_MODEL VISION_TOWER OUT [GPUS]
#
# CAPTIONS, CAPTION_IMAGES: image-caption pairs for stage 1; default: the reports themselves. Settings of the stages are
# the environment variables of train/scripts, those of the evaluation of eval/scripts/evaluate.sh.
set -euo pipefail
[ $# -ge 5 ] || { sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2; }
annotation=$(realpath "$1") images=$(realpath "$2") out=$(realpath -m "$5") gpus=${6:-1}
export LM_PATH VISION_TOWER
LM_PATH=$(realpath "$3") VISION_TOWER=$(realpath "$4")
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PYTHON=${PYTHON:-python} bash eval/scripts/evaluate.sh --check # what the end needs is there
python convert_data.py --annotation "$annotation" --images "$images" --out_dir "$out/data"
reports=$out/data/train_llava_llada.json

DATA_PATH=${CAPTIONS:-$reports} IMAGE_FOLDER=${CAPTION_IMAGES:-$images} OUTPUT_DIR=$out/stage1 \
    bash train/scripts/llada_v_pretrain.sh 1 "$gpus"
DATA_PATH=$reports IMAGE_FOLDER=$images OUTPUT_DIR=$out/stage2 \
    PRETRAIN_MM_MLP_ADAPTER=$out/stage1/mm_projector.safetensors \
    bash train/scripts/llada_v_finetune.sh 1 "$gpus"
PYTHON=${PYTHON:-python} MIMIC_CXR_DATA=$out/data MIMIC_CXR_IMAGES=$images OUTPUT_PATH=$out/results \
    bash eval/scripts/evaluate.sh "$out/stage2"
