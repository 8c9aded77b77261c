"""Batches of prompts and noised responses."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dllm.core.losses import IGNORE_INDEX
from dllm.core.noise import ForwardProcess
from dllm.core.patterns import BLOCKWISE, NO_PROMPT, SHIFTED


def canvas_length(config, num_tokens: int) -> int:
    """Target rows of a response of `num_tokens` (stop token included): the end of its block, or the whole canvas.

    Where every response token sees the whole canvas, its length would tell that of the response, so it is fixed.
    Raises ValueError if the response does not fit.
    """
    if config.attention_pattern in BLOCKWISE:
        return -(-num_tokens // config.block_length) * config.block_length
    canvas = -(-config.gen_length // config.block_length) * config.block_length
    if num_tokens > canvas:
        raise ValueError(f"a response of {num_tokens} tokens does not fit the canvas; raise gen_length ({canvas})")
    return canvas


@dataclass
class ResponseCollator:
    """Makes a batch of samples {prompt_ids, response_ids, num_inputs, position}: prompts left-padded, responses
    right-padded.

    Returns input_ids, attention_mask [B, P]; labels [B, R], -100 on padding; masked [B, R] bool, rates and weights
    [B, R] fp32 of the forward process (`dllm.core.noise.Noise`), keyed by each sample's position in the run; tail
    [B, R] bool, the targets after the stop token; num_inputs, what the samples have beside text. P is a multiple of
    `pad_to_multiple_of`, so that shapes are few. Without `with_tail` the canvas of a response is its own tokens. Raises
    ValueError on a sample without a prompt if the pattern needs one.
    """

    config: object  # the model's diffusion settings
    forward_process: ForwardProcess
    pad_to_multiple_of: int = 1
    with_tail: bool = True

    def __call__(self, samples: list[dict]) -> dict[str, Tensor]:
        canvases = [len(sample["response_ids"]) for sample in samples]
        if self.with_tail:
            canvases = [canvas_length(self.config, length) for length in canvases]
        prompts, R = [len(sample["prompt_ids"]) for sample in samples], max(canvases)
        if self.config.attention_pattern == SHIFTED and not all(prompts):
            raise ValueError(NO_PROMPT)
        P = -(-max(prompts) // self.pad_to_multiple_of) * self.pad_to_multiple_of
        block_length = self.config.block_length if self.config.attention_pattern in BLOCKWISE else None
        batch = {
            "input_ids": torch.full((len(samples), P), self.config.tail_token_id),
            "attention_mask": torch.zeros(len(samples), P, dtype=torch.bool),
            "labels": torch.full((len(samples), R), IGNORE_INDEX),
            "masked": torch.zeros(len(samples), R, dtype=torch.bool),
            "rates": torch.zeros(len(samples), R),
            "weights": torch.zeros(len(samples), R),
            "tail": torch.zeros(len(samples), R, dtype=torch.bool),
            "num_inputs": torch.tensor(sum(sample.get("num_inputs", 0) for sample in samples)),
        }
        for row, (sample, canvas) in enumerate(zip(samples, canvases, strict=True)):
            prompt, response = sample["prompt_ids"], sample["response_ids"]
            batch["input_ids"][row, P - len(prompt) :] = torch.tensor(prompt)
            batch["attention_mask"][row, P - len(prompt) :] = True
            batch["labels"][row, : len(response)] = torch.tensor(response)
            batch["labels"][row, len(response) : canvas] = self.config.tail_token_id
            batch["tail"][row, len(response) : canvas] = True
            noise = self.forward_process.draw(sample["position"], canvas, block_length)
            for name in ("masked", "rates", "weights"):
                batch[name][row, :canvas] = torch.from_numpy(getattr(noise, name))
        return batch
