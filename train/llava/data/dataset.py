"""LLaVA JSON files as training samples: every answer of a conversation, with what came before it as its prompt."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase, SiglipImageProcessorPil

from dllm.core.noise import Forward
from dllm.data.collator import ResponseCollator, canvas_length
from llava.constants import DEFAULT_IMAGE_TOKEN, IMAGE_TOKEN_INDEX
from llava.conversation import build_prompt, build_response
from llava.data.anyres import num_views, read_grids
from llava.data.images import check_image, image_size, load_image, preprocess_frames, preprocess_image
from llava.data.video import VideoFolder
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
    return [name for kind, name in visual_inputs(record) if kind == "image"]


def visual_inputs(record: dict) -> list[tuple[str, str]]:
    """("image" or "video", path in its folder) of what a record shows, in the order of its marks."""
    named = {kind: record.get(kind) or [] for kind in ("image", "video")}
    listed = {kind: names if isinstance(names, list) else [names] for kind, names in named.items()}
    return [(kind, name) for kind, names in listed.items() for name in names]


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
    visuals = visual_inputs(record)
    kinds = {kind for kind, _ in visuals}
    if len(kinds) > 1:
        raise ValueError(f"{where} has images and videos, whose order is not known; split it into two records")
    (kind,) = kinds or {"image"}
    if not all(isinstance(name, str) for _, name in visuals):
        raise ValueError(f"{where}: {kind} must be a path or a list of paths")
    marks = sum(turn["value"].count(DEFAULT_IMAGE_TOKEN) for turn in turns)
    if marks != len(visuals):
        raise ValueError(f"{where} has {len(visuals)} {kind}s for {marks} {DEFAULT_IMAGE_TOKEN} marks")


@dataclass(frozen=True)
class Sample:
    """One answer: the id of its record, what its prompt shows (`visual_inputs`), the ids of prompt and answer."""

    record_id: str
    visuals: list[tuple[str, str]]
    prompt_ids: np.ndarray
    response_ids: np.ndarray


class ReportDataset(Dataset):
    """Samples {prompt_ids, response_ids, images: list of [tiles, 3, S, S]}, tokenised at the start, films read lazily.

    Every record is checked before the first step: its images are there and whole, the headers of its videos can be
    read, and prompt and response fit `max_length`. The response is never cut. `lengths` has the tokens of each sample:
    prompt, visual tokens included, and the canvas of the response. Raises ValueError naming the record.
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
        videos: VideoFolder | None = None,
    ):
        self.data_path, self.folder, self.videos = data_path, Path(image_folder), videos
        self.processor, self.config, self.mode = processor, config, config.image_aspect_ratio
        self.grids = read_grids(self.mode, config.image_grid_pinpoints, config.vision_config.image_size)
        self.tokenizer, self.num_image_tokens, self.max_length = tokenizer, num_image_tokens, max_length
        self.samples: list[Sample] = []
        self.lengths: list[int] = []
        for record in tqdm(read_records(data_path), desc="tokenise", disable=not show_progress):
            try:
                self._add(record)
            except ValueError as error:
                raise ValueError(f"{data_path}, record {record.get('id')!r}: {error}") from error

    def _add(self, record: dict) -> None:
        """Checks a record and appends its answers."""
        turns, visuals = record["conversations"], visual_inputs(record)
        tiles = [self._num_tiles(*visual) for visual in visuals]
        for number in range(1, len(turns), 2):
            history = turns[:number]
            seen = sum(turn["value"].count(DEFAULT_IMAGE_TOKEN) for turn in history)
            counts = [self.num_image_tokens * count for count in tiles[:seen]]
            prompt = build_prompt(self.tokenizer, history, counts, self.config.version)
            response = build_response(self.tokenizer, turns[number]["value"], self.config.text_config.stop_token_ids[0])
            self.lengths.append(self._length(len(prompt), len(response), sum(tiles[:seen]), sum(counts)))
            ids = (np.array(tokens, np.int32) for tokens in (prompt, response))
            self.samples.append(Sample(record.get("id"), visuals[:seen], *ids))

    def _num_tiles(self, kind: str, name: str) -> int:
        """Tiles of an image or frames of a video, from the file's header."""
        if kind == "video":
            if self.videos is None:
                raise ValueError(f"it has the video {name}; give --video_folder")
            return self.videos.num_frames(name)
        check_image(self.folder / name)
        if not self.grids:
            return 1
        return num_views(image_size(self.folder / name), self.grids, self.config.vision_config.image_size)

    def _length(self, prompt: int, response: int, tiles: int, visual: int) -> int:
        """Tokens of a sample whose prompt has `prompt`, `visual` of them from `tiles`. Raises if there is no room."""
        diffusion = self.config.text_config
        canvas, positions = canvas_length(diffusion, response), diffusion.max_position_embeddings
        if prompt + canvas <= min(self.max_length, positions):
            return prompt + canvas
        limited = self.max_length <= positions
        room = f"--model_max_length {self.max_length}" if limited else f"the {positions} positions of the model"
        remedies = ["raise it"] * limited + ["shorten the context"]
        if tiles > 1:
            remedies.append(f"allow fewer than its {tiles} tiles ({visual} tokens; anyres_max_N, --frames_upbound)")
        raise ValueError(
            f"a prompt of {prompt} tokens leaves no room for a report of {response} ({canvas} with its tail) in {room};"
            f" {' or '.join(remedies)}"
        )

    def __len__(self) -> int:
        return len(self.samples)

    def name(self, index: int) -> str:
        """What a message calls a sample."""
        return f"record {self.samples[index].record_id!r}"

    def __getitem__(self, index: int) -> dict:
        sample = self.samples[index]
        images = [self._pixels(*visual) for visual in sample.visuals]
        places, tiles = int((sample.prompt_ids == IMAGE_TOKEN_INDEX).sum()), sum(len(image) for image in images)
        if tiles * self.num_image_tokens != places:
            names = ", ".join(name for _, name in sample.visuals)
            raise ValueError(f"{self.data_path}: {names} changed since the run began ({tiles} tiles); start it again")
        return {"prompt_ids": sample.prompt_ids, "response_ids": sample.response_ids, "images": images}

    def _pixels(self, kind: str, name: str) -> torch.Tensor:
        """Tiles [n, 3, S, S] of an image, or the frames of a video."""
        if kind == "image":
            return preprocess_image(load_image(self.folder / name), self.processor, self.mode, self.grids)
        return preprocess_frames(self.videos.frames(name), self.processor, self.mode)


class ReportCollator(ResponseCollator):
    """ResponseCollator with the batch's images [n, 3, S, S] and one key per tile for what `masked_drop` keeps."""

    def __init__(self, config, forward_process: Forward, pad_to_multiple_of: int = 1):
        super().__init__(config.text_config, forward_process, config.text_config.tail_token_id, pad_to_multiple_of)
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
