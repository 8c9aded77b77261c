# Source this file from a stage script: run_stage launches training with what both stages share.
#
# Environment variables of both stages (default), beside those of every run; paths count from train/:
#     LM_PATH                      language model, or a trained model to go on with         (model/Qwen3-0.6B-diffusion-mdlm-v0.1)
#     VISION_TOWER                 SigLIP folder, open_clip:NAME or timm:NAME               (model/siglip2-so400m-patch14-384)
#     DEEPSPEED                    its JSON file; empty: plain DDP                          (scripts/zero3.json)
#     EVAL_DATA_PATH               LLaVA JSON file of validation                            (none)
#     EVAL_STEPS                   steps from one validation to the next                    (500)
#     MM_RESAMPLER_TYPE            qformer, perceiver, spatial_pool, masked_drop, none      (the model's own, or qformer)
#     MM_PROJECTOR_TYPE            mlp2x_gelu, linear, identity                             (the model's own, or mlp2x_gelu)
#     MM_VISION_SELECT_LAYER       hidden state of the encoder that is used                 (-2)
#     IMAGE_ASPECT_RATIO           square, pad, anyres, anyres_max_N                        (the model's own, or square)
#     IMAGE_GRID_PINPOINTS         grids of anyres                                          (the model's own)
#     VERSION                      conversation template                                    (the model's own, or qwen)
#     VIDEO_FOLDER                 folder of the records' videos                            (none)
#     VIDEO_FPS                    frames that are taken of a second                        (1)
#     FRAMES_UPBOUND               frames of a video at most; 0: no bound                   (0)

cd "$(dirname "${BASH_SOURCE[0]}")/.."
SETTINGS=(scripts/stage.sh scripts/llada_v_*.sh)
source scripts/launch.sh

DEEPSPEED=${DEEPSPEED-scripts/zero3.json} # or zero1, zero2, zero3pp; empty: plain DDP
LM_PATH=${LM_PATH:-model/Qwen3-0.6B-diffusion-mdlm-v0.1}
if grep -qs '"llava_qwen3"' "$LM_PATH/config.json"; then # a trained model, with a tower and an adapter of its own
    VISION_TOWER=${VISION_TOWER-} PRETRAIN_MM_MLP_ADAPTER=${PRETRAIN_MM_MLP_ADAPTER-}
fi
VISION_TOWER=${VISION_TOWER-model/siglip2-so400m-patch14-384}

run_stage() { # run_stage arguments of this stage...
    launch llava/train/train_mem.py \
        --model_name_or_path "$LM_PATH" \
        ${VISION_TOWER:+--vision_tower "$VISION_TOWER"} \
        ${VERSION+--version "$VERSION"} \
        --data_path "$DATA_PATH" \
        --image_folder "$IMAGE_FOLDER" \
        ${EVAL_DATA_PATH:+--eval_data_path "$EVAL_DATA_PATH" --eval_strategy steps --eval_steps "${EVAL_STEPS:-500}"} \
        ${IMAGE_ASPECT_RATIO+--image_aspect_ratio "$IMAGE_ASPECT_RATIO"} \
        ${IMAGE_GRID_PINPOINTS:+--image_grid_pinpoints "$IMAGE_GRID_PINPOINTS"} \
        ${VIDEO_FOLDER:+--video_folder "$VIDEO_FOLDER"} \
        --video_fps "${VIDEO_FPS:-1}" \
        --frames_upbound "${FRAMES_UPBOUND:-0}" \
        ${MM_VISION_SELECT_LAYER+--mm_vision_select_layer "$MM_VISION_SELECT_LAYER"} \
        ${MM_PROJECTOR_TYPE+--mm_projector_type "$MM_PROJECTOR_TYPE"} \
        ${MM_RESAMPLER_TYPE+--mm_resampler_type "$MM_RESAMPLER_TYPE"} \
        "$@"
}
