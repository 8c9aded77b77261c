"""Batches of prompts and noised responses."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dllm.core.losses import IGNORE_INDEX
from dllm.core.noise import Forward


def canvas_length(config, num_tokens: int) -> int:
    """Target rows of a response of `num_tokens` (stop token included): the end of its block, or the whole canvas.

    Where every response token sees the whole canvas, its length would tell the length of the report, so it is fixed.
    Raises ValueError if the response does not fit.
    """
    if config.attention_pattern == "block":
        return -(-num_tokens // config.block_length) * config.block_length
    canvas = -(-config.gen_length // config.block_length) * config.block_length
    if num_tokens > canvas:
        raise ValueError(f"a response of {num_tokens} tokens does not fit the canvas; raise gen_length ({canvas})")
    return canvas


@dataclass
class ResponseCollator:
    """Makes a batch of samples {prompt_ids, response_ids, position}: prompts left-padded, responses right-padded.

    Returns input_ids, attention_mask [B, P]; labels [B, R], -100 on padding; masked [B, R] bool and weights [B, R] fp32
    of the forward process, keyed by each sample's position in the run; tail [B, R] bool, the targets after the report.
    """

    config: object  # the model's diffusion settings
    forward_process: Forward
    pad_token_id: int

    def __call__(self, samples: list[dict]) -> dict[str, Tensor]:
        canvases = [canvas_length(self.config, len(sample["response_ids"])) for sample in samples]
        P, R = max(len(sample["prompt_ids"]) for sample in samples), max(canvases)
        batch = {
            "input_ids": torch.full((len(samples), P), self.pad_token_id),
            "attention_mask": torch.zeros(len(samples), P, dtype=torch.bool),
            "labels": torch.full((len(samples), R), IGNORE_INDEX),
            "masked": torch.zeros(len(samples), R, dtype=torch.bool),
            "weights": torch.zeros(len(samples), R),
            "tail": torch.zeros(len(samples), R, dtype=torch.bool),
        }
        for row, (sample, canvas) in enumerate(zip(samples, canvases, strict=True)):
            prompt, response = sample["prompt_ids"], sample["response_ids"]
            batch["input_ids"][row, P - len(prompt) :] = torch.tensor(prompt)
            batch["attention_mask"][row, P - len(prompt) :] = True
            batch["labels"][row, : len(response)] = torch.tensor(response)
            batch["labels"][row, len(response) : canvas] = self.config.tail_token_id
            batch["tail"][row, len(response) : canvas] = True
            noise = self.forward_process.draw(sample["position"], canvas)
            batch["masked"][row, :canvas] = torch.from_numpy(noise.masked)
            batch["weights"][row, :canvas] = torch.from_numpy(noise.weights().astype(np.float32))
        return batch
