"""Teaches a tiny vision encoder with random weights to see, before a language model learns with it: the colour, the row
and the column of every cell of generated tables, from its visual token. A published encoder needs it not.
"""

import sys

import numpy as np
import torch
import torch.nn.functional as F

from dllm.bar import Bar
from dllm.pipelines.qwen3_vl.modeling_qwen3_vl import Qwen3VLForMaskedLM
from dllm.pipelines.qwen3_vl.processing import Qwen3VLProcessor, image_inputs
from dllm.pipelines.qwen3_vl.tiny_tables import COLOURS, SIDES, draw_cells, draw_table


def pretrain(folder: str, steps: int, batch_size: int = 32, learning_rate: float = 3e-3, seed: int = 0) -> list[float]:
    """Trains `visual` of a tiny model in its folder; returns the shares of colours, rows, columns told at the end."""
    torch.manual_seed(seed)
    model, processor = Qwen3VLForMaskedLM.from_pretrained(folder), Qwen3VLProcessor.from_pretrained(folder)
    visual, width = model.model.visual, model.diffusion.hidden_size
    sources = 1 + len(visual.deepstack_merger_list)  # the visual tokens, and the features for each deepstack layer
    heads = [torch.nn.Linear(sources * width, classes) for classes in (len(COLOURS), SIDES[1], SIDES[1])]
    weights = [weight for module in (visual, *heads) for weight in module.parameters()]
    optimizer = torch.optim.AdamW(weights, learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.1)
    rng, right = np.random.default_rng(seed), []
    for _ in Bar(range(steps), desc="vision", file=sys.stderr):
        tables = [draw_cells(rng) for _ in range(batch_size)]
        inputs = image_inputs(processor, [draw_table(cells, rng) for cells in tables])
        tokens, deepstack = model.see(**inputs)  # [N, D], [N, K, D]
        features = torch.cat([tokens, deepstack.flatten(1)], dim=1)
        truths = torch.tensor([cell for cells in tables for cell in facts(cells)])  # [N, 3]
        logits = [head(features) for head in heads]
        loss = sum(F.cross_entropy(each, truth) for each, truth in zip(logits, truths.T, strict=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        told = torch.stack([each.argmax(-1) for each in logits], dim=1)
        right.append((told == truths).float().mean(0))
    model.save_pretrained(folder)
    return torch.stack(right[-10:]).mean(0).tolist()


def facts(cells: list[list[str]]) -> list[tuple[int, int, int]]:
    """Colour, row and column of every cell, in the order of the visual tokens."""
    colours = list(COLOURS)
    return [(colours.index(colour), i, j) for i, row in enumerate(cells) for j, colour in enumerate(row)]
