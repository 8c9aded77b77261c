"""A tiny random Qwen3-VL in fp64, prompts with images of different sizes, and the training losses the long way."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextRMSNorm

from dllm.core.prompt import Prompt
from dllm.pipelines.qwen3_vl import Qwen3VLForMaskedLM, Qwen3VLProcessor
from dllm.pipelines.qwen3_vl.processing import PLACE, build_visual_prompt, image_inputs
from dllm.pipelines.qwen3_vl.tiny import save_model
from oracles.attention import BLOCKWISE, one_sequence, place_of_prediction

SIZES = [(32, 16), (16, 16), (48, 32), (40, 70)]  # of images in pixels; the last one is resized


def save_tiny(folder, tie_word_embeddings: bool = True) -> str:
    """Writes a plain qwen3_vl folder as published ones are."""
    torch.manual_seed(0)
    save_model(
        str(folder),
        ["What is in it? red green blue"],
        layers=2,
        vocab_size=280,
        tie_word_embeddings=tie_word_embeddings,
    )
    return str(folder)


def load_exact(folder: str, pattern: str = "block") -> Qwen3VLForMaskedLM:
    """The model in float64 throughout, its weights wide enough for every token to matter to every other."""
    model = Qwen3VLForMaskedLM.from_pretrained(folder).double().eval()
    return prepare(model, pattern)


def prepare(model, pattern: str | None = None):
    torch.manual_seed(1)
    for parameter in model.parameters():
        parameter.data.normal_(std=1.5 * parameter.shape[-1] ** -0.5) if parameter.dim() > 1 else None
    _keep_float64(model)
    if pattern:
        for name, value in {"attention_pattern": pattern, "block_length": 4, "gen_length": 12}.items():
            setattr(model.diffusion, name, value)
    return model


def _keep_float64(model) -> None:
    """Puts torch's RMS norm in place of transformers' own, which rounds to float32 on its way."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Qwen3VLTextRMSNorm):
                exact = nn.RMSNorm(child.weight.shape, child.variance_epsilon, dtype=torch.float64)
                exact.weight = child.weight
                setattr(parent, name, exact)


def picture(size: tuple[int, int], seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def random_prompt(processor: Qwen3VLProcessor, rng: np.random.Generator, most: int = 2) -> tuple[list[int], list]:
    """Ids of a question of some words with up to `most` images at the start of it and between them, and the images."""
    images = [picture(SIZES[rng.integers(len(SIZES))], int(rng.integers(1000))) for _ in range(rng.integers(most + 1))]
    words = ["red "] * int(rng.integers(1, 6)) + [PLACE] * len(images)
    turns = [{"from": "human", "value": "".join(rng.permutation(words))}]
    return build_visual_prompt(processor, turns, [image.size for image in images]), images


def batch_of(processor: Qwen3VLProcessor, prompts: list[tuple[list[int], list]], width: int | None = None) -> dict:
    """What the model takes for these prompts, left-padded."""
    width = width or max(len(ids) for ids, _ in prompts)
    valid = [[0] * (width - len(ids)) + [1] * len(ids) for ids, _ in prompts]
    rows = [[0] * (width - len(ids)) + ids for ids, _ in prompts]
    images = image_inputs(processor, [image for _, images in prompts for image in images])
    return {"input_ids": torch.tensor(rows), "attention_mask": torch.tensor(valid)} | images


def literal_losses(model, prompt: Prompt, response: list[int], masked: set[int]) -> Tensor:
    """The loss [R] of every token of a response, each of two views a sequence (under `block` one for every block) of
    its own after one prompt without padding.
    """
    config, R, losses = model.diffusion, len(response), {}
    for view in (masked, set(range(R)) - masked):
        noisy = [config.mask_token_id if i in view else token for i, token in enumerate(response)]
        starts, ends = [0], [R]
        if config.attention_pattern in BLOCKWISE:
            starts = list(range(0, R, config.block_length))
            ends = [min(start + config.block_length, R) for start in starts]
        for start, end in zip(starts, ends, strict=True):
            hidden = one_pass(model, prompt, response[:start] + noisy[start:end])
            for i in view & set(range(start, end)):
                losses[i] = -model.logits(hidden[i][None])[0].log_softmax(-1)[response[i]]
    return torch.stack([losses[i] for i in range(R)])


def one_pass(model, prompt: Prompt, ids: list[int]) -> Tensor:
    """Hidden states [R, D] where response tokens `ids` are predicted after one prompt without padding, all in one
    sequence.
    """
    config, P = model.diffusion, prompt.embeds.shape[1]
    sees = one_sequence(config.attention_pattern, P, len(ids), config.block_length)
    embeds = torch.cat([prompt.embeds, model.embed(torch.tensor([ids]))], dim=1)
    positions = torch.cat([prompt.positions, prompt.response_positions(len(ids))], dim=-1)
    hidden = model.trunk(embeds, torch.tensor(sees)[None, None], positions, **prompt.extras)[0]
    return hidden[[place_of_prediction(config.attention_pattern, P + i) for i in range(len(ids))]]
