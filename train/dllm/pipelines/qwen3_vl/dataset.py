"""Conversations about images as training samples, and their batches.

A record is one of `dllm.data.records` with `image` or `images`: a path, an image that is open, or a dict with `bytes`
or `path`, or a list of them. `<image>` in its questions marks where they go (an image part of the messages format has
become such a mark); without marks they go before the first question.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from dllm.data.collator import ResponseCollator
from dllm.data.rows import ArrowRows
from dllm.data.specs import Rows
from dllm.data.text import TextDataset
from dllm.data.utils import to_conversation
from dllm.pipelines.qwen3_vl import processing
from dllm.training.arguments import MDLMConfig


class VisualDataset(TextDataset):
    """`TextDataset` whose samples have `pixel_values` and `image_grid_thw` (`processing.image_inputs`).

    Before the first step the header of every image is read, which tells its visual tokens; a record with one that does
    not open is left out. Paths are below `folder`.
    """

    def __init__(self, data_path: str, records: Sequence[dict], processor, *limits, folder: str = "", **settings):
        """`limits` and `settings` are the last arguments of `ConversationDataset`."""
        self.processor, self.folder = processor, Path(folder)
        super().__init__(data_path, records, processor.tokenizer, *limits, **settings)

    def prompt(self, record: dict, history: list[dict]) -> tuple[list[int], list, int]:
        images = images_of(record)
        turns = processing.place_images(history, record["conversations"], len(images))
        images = images[: sum(turn["value"].count(processing.PLACE) for turn in turns)]
        images = [str(self.folder / image) if isinstance(image, str | Path) else image for image in images]
        sizes = [processing.open_image(image).size for image in images]
        ids = processing.build_visual_prompt(self.processor, turns, sizes, record.get("system"))
        return ids, images, ids.count(self.processor.tokenizer.convert_tokens_to_ids("<|image_pad|>"))

    def remedies(self, prompt: list[int], num_inputs: int) -> list[str]:
        fewer = f"allow its images fewer than {num_inputs} tokens (longest_edge in preprocessor_config.json, in pixels)"
        return super().remedies(prompt, num_inputs) + [fewer] * (num_inputs > 0)

    def __getitem__(self, index: int) -> dict:
        sample = self.sample(index)
        try:
            images = [processing.load_image(image) for image in sample.inputs]
        except ValueError as error:
            raise ValueError(f"{self.data_path}, {self.name(index)}: {error}") from error
        return self.as_item(sample) | (processing.image_inputs(self.processor, images) if images else {})


def images_of(record: dict) -> list:
    """What a record has in its columns `image` and `images`."""
    found = [record[name] for name in ("image", "images") if record.get(name) is not None]
    return [image for each in found for image in (each if isinstance(each, list | tuple) else [each])]


class Qwen3VLDataCollator(ResponseCollator):
    """`ResponseCollator` with the patches of a batch's images; a batch without images brings a blank one, so that every
    rank makes the same calls of the vision encoder. `Qwen3VLTrainer` tells it the settings of its model and its run.
    """

    def __init__(self, processor):
        super().__init__(config=None, forward_process=None)
        self.processor = processor

    def set_up(self, diffusion, args: MDLMConfig) -> None:
        """Takes over the settings of a model and of a run."""
        self.config, self.forward_process = diffusion, args.forward_process()
        self.pad_to_multiple_of = args.pad_to_multiple_of

    def __call__(self, samples: list[dict]) -> dict[str, Tensor]:
        assert self.config is not None, "it is the trainer that calls its collator"
        seen = [sample for sample in samples if "pixel_values" in sample]
        seen = seen or [processing.image_inputs(self.processor, [])]
        names = ("pixel_values", "image_grid_thw")
        return super().__call__(samples) | {name: torch.cat([sample[name] for sample in seen]) for name in names}


def as_dataset(name: str, rows: Sequence[dict], processor, diffusion, max_length: int, progress: bool) -> VisualDataset:
    """Rows of any shape that `dllm.data.utils.to_conversation` knows, of memory or of a memory-mapped table."""
    if hasattr(rows, "with_format"):  # of `datasets`: as stored, so that no image is decoded before its turn
        rows = ArrowRows(rows)
    records = Rows(name, rows, range(len(rows)), to_conversation)
    return VisualDataset(name, records, processor, diffusion, max_length, progress)
