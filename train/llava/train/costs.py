"""What a training step of the vision-language model costs: the images' share added to that of the language model."""

import torch
from torch import Tensor, nn

from dllm.training import flops
from llava.model.language_model.llava_qwen import LlavaQwen3ModelLM
from llava.model.llava_arch import LlavaMetaModel


def step_costs(model: LlavaQwen3ModelLM, dtype: torch.dtype | None = None) -> tuple[flops.Cost, flops.Cost]:
    """Operations, and bytes kept for the backward pass, as `dllm.training.flops.step_costs`."""
    side = model.config.vision_config.image_size
    image, flows = flops.measure(_OneImage(model.model), torch.zeros(1, 3, side, side), dtype)
    return flops.step_costs(model, dtype, prompt_flows=flows, per_image=image)


class _OneImage(nn.Module):
    """Everything between pixels [1, 3, S, S] and the language model."""

    def __init__(self, vision: LlavaMetaModel):
        super().__init__()
        self.vision = vision

    def forward(self, images: Tensor) -> Tensor:
        return self.vision(images, torch.zeros(1))
