"""Names and numbers that data, model and evaluation share."""

IGNORE_INDEX = -100  # as in dllm.core.losses, which loads torch
IMAGE_TOKEN_INDEX = -200  # stands in prompt ids where one visual token goes
DEFAULT_IMAGE_TOKEN = "<image>"  # stands in text where an image goes

# Part of the model, as --mm_tunable_parts names it -> prefix of its weights.
PARTS = {
    "mm_vision_tower": "model.vision_tower.",
    "mm_vision_resampler": "model.vision_resampler.",
    "mm_mlp_adapter": "model.mm_projector.",
    "mm_language_model": "language_model.",
}
