# Source this file from a stage script: run_stage launches training with what both stages share. Every capital name is an
# environment variable; the value given here, or in launch.sh, is its default.

cd "$(dirname "${BASH_SOURCE[0]}")/.."
SETTINGS=(scripts/stage.sh scripts/llada_v_*.sh)
source scripts/launch.sh

DEEPSPEED=${DEEPSPEED-scripts/zero3.json} # or zero1, zero2, zero3pp; empty: plain DDP
LM_PATH=${LM_PATH:-model/Qwen3-0.6B-diffusion-mdlm-v0.1}
VISION_TOWER=${VISION_TOWER-model/siglip2-so400m-patch14-384} # empty: LM_PATH is a trained model, which has one

run_stage() { # run_stage arguments of this stage...
    launch llava/train/train_mem.py \
        --model_name_or_path "$LM_PATH" \
        ${VISION_TOWER:+--vision_tower "$VISION_TOWER"} \
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
        "$@"
}
