"""LLaVA JSON files as training samples: every answer of a conversation, with what came before it as its prompt."""

import json
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase, SiglipImageProcessorPil

from dllm.core.noise import Forward
from dllm.data.collator import ResponseCollator, canvas_length
from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.conversation import build_prompt, build_response
from llava.data.images import check_image, load_image, preprocess_image
from llava.model.llava_arch import image_batch


def read_records(data_path: str) -> list[dict]:
    """The records of a LLaVA JSON file. Raises ValueError, naming file and record, on anything else."""
    path = Path(data_path)
    if not path.is_file():
        raise ValueError(f"--data_path {data_path!r} is not a file; make it with convert_data.py")
    try:
        records = json.loads(path.read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{data_path} is not JSON ({error}); make it again with convert_data.py") from error
    if not isinstance(records, list) or not records:
        raise ValueError(f"{data_path} holds no list of records; make it again with convert_data.py")
    for number, record in enumerate(records):
        _check_record(record, f"{data_path}, record {number}")
    return records


def image_names(record: dict) -> list[str]:
    """The images of a record, relative to the image folder; none for a text-only record."""
    image = record.get("image") or []
    return image if isinstance(image, list) else [image]


def _check_record(record: dict, where: str) -> None:
    turns = record.get("conversations") if isinstance(record, dict) else None
    if not isinstance(turns, list) or not turns or len(turns) % 2:
        raise ValueError(f"{where} has no conversation of questions and their answers")
    where += f" (id {record.get('id')!r})"
    for number, turn in enumerate(turns):
        role = ("human", "gpt")[number % 2]
        text = turn.get("value") if isinstance(turn, dict) and turn.get("from") == role else None
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"{where}: turn {number} must be a text from {role!r}")
        if role == "gpt" and DEFAULT_IMAGE_TOKEN in text:
            raise ValueError(f"{where}: turn {number} is an answer, which cannot hold {DEFAULT_IMAGE_TOKEN}; remove it")
    names = image_names(record)
    if not all(isinstance(name, str) for name in names):
        raise ValueError(f"{where}: image must be a path or a list of paths")
    marks = sum(turn["value"].count(DEFAULT_IMAGE_TOKEN) for turn in turns)
    if marks != len(names):
        raise ValueError(f"{where} has {len(names)} images for {marks} {DEFAULT_IMAGE_TOKEN} marks")


class ReportDataset(Dataset):
    """Samples {prompt_ids, response_ids, images: list of [tiles, 3, S, S]}, tokenised at the start, films read lazily.

    Every record is checked before the first step: its images are there and whole, and prompt and response fit
    `max_length`. The response is never cut. Raises ValueError naming the record.
    """

    def __init__(
        self,
        data_path: str,
        image_folder: str,
        tokenizer: PreTrainedTokenizerBase,
        processor: SiglipImageProcessorPil,
        config,
        num_image_tokens: int,
        max_length: int,
        show_progress: bool = True,
    ):
        self.processor, self.mode, self.folder = processor, config.image_aspect_ratio, Path(image_folder)
        self.samples: list[tuple[list[str], np.ndarray, np.ndarray]] = []  # image names, prompt ids, response ids
        diffusion = config.text_config
        for record in tqdm(read_records(data_path), desc="tokenise", disable=not show_progress):
            names, turns = image_names(record), record["conversations"]
            where = f"{data_path}, record {record.get('id')!r}"
            for name in names:
                try:
                    check_image(self.folder / name)
                except ValueError as error:
                    raise ValueError(f"{where}: {error}") from error
            for number in range(1, len(turns), 2):
                history = turns[:number]
                prompt = build_prompt(tokenizer, history, num_image_tokens, config.version)
                response = build_response(tokenizer, turns[number]["value"], diffusion.stop_token_ids[0])
                _check_length(len(prompt), len(response), diffusion, max_length, where)
                seen = sum(turn["value"].count(DEFAULT_IMAGE_TOKEN) for turn in history)
                self.samples.append((names[:seen], np.array(prompt, np.int32), np.array(response, np.int32)))

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict:
        names, prompt, response = self.samples[index]
        images = [preprocess_image(load_image(self.folder / name), self.processor, self.mode) for name in names]
        return {"prompt_ids": prompt, "response_ids": response, "images": images}


def _check_length(prompt: int, response: int, diffusion, max_length: int, where: str) -> None:
    try:
        canvas = canvas_length(diffusion, response)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    if prompt + canvas > max_length:
        raise ValueError(
            f"{where}: a prompt of {prompt} tokens leaves no room for a report of {response} ({canvas} with its tail) "
            f"in --model_max_length {max_length}; raise it or shorten the context"
        )


class ReportCollator(ResponseCollator):
    """ResponseCollator with the batch's images [n, 3, S, S] and one key per image for what `masked_drop` keeps."""

    def __init__(self, config, forward_process: Forward):
        super().__init__(config.text_config, forward_process, pad_token_id=config.text_config.tail_token_id)
        self.image_size = config.vision_config.image_size

    def __call__(self, samples: list[dict]) -> dict[str, torch.Tensor]:
        images = [image for sample in samples for image in sample["images"]]
        keys = [
            self.forward_process.key(sample["position"], tile)
            for sample in samples
            for tile in range(sum(len(image) for image in sample["images"]))
        ]
        batch = super().__call__(samples)
        batch["images"] = image_batch(images, self.image_size)
        batch["image_keys"] = torch.tensor(keys or [0])
        return batch
