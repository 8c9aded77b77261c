"""LLaVA JSON files as training samples: answers to questions about images or videos."""

from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase, SiglipImageProcessorPil

from dllm.core.noise import ForwardProcess
from dllm.data.collator import ResponseCollator
from dllm.data.dataset import ConversationDataset
from dllm.data.inputs import check_inputs, usable
from llava.constants import DEFAULT_IMAGE_TOKEN, IMAGE_TOKEN_INDEX
from llava.conversation import build_prompt
from llava.data.images import ImagePreprocessor, check_image, image_size, load_image
from llava.data.records import Visual, read_records, visual_inputs
from llava.data.video import VideoFolder
from llava.model.llava_arch import image_batch


class ReportDataset(ConversationDataset):
    """`ConversationDataset` with `images`: list of [tiles, 3, S, S], read when it is their turn.

    Before the first step the first process looks, on all its cores, whether every image is there and whole and the
    headers of videos can be read; DICOM files are not decoded, which convert_data.py has done.
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
        self.folder, self.videos, self.version = Path(image_folder), videos, config.version
        self.preprocessor, self.num_image_tokens = ImagePreprocessor(processor, config), num_image_tokens
        found = read_records(data_path)
        visuals = (visual for record in found for visual in visual_inputs(record))
        self.tiles: dict[Visual, int | str] = check_inputs(self._num_tiles, visuals, "check images", "image")
        super().__init__(data_path, found, tokenizer, config.text_config, max_length, show_progress)

    def prompt(self, record: dict, history: list[dict]) -> tuple[list[int], list[Visual], int]:
        seen = sum(turn["value"].count(DEFAULT_IMAGE_TOKEN) for turn in history)
        visuals = visual_inputs(record)
        tiles = [usable(self.tiles, visual, "images") for visual in visuals][:seen]
        counts = [self.num_image_tokens * count for count in tiles]
        ids = build_prompt(self.tokenizer, history, counts, self.version, record.get("system"))
        return ids, visuals[:seen], sum(tiles)

    def remedies(self, prompt: list[int], num_inputs: int) -> list[str]:
        visual = prompt.count(IMAGE_TOKEN_INDEX)
        fewer = f"allow fewer than its {num_inputs} tiles ({visual} tokens; anyres_max_N, --frames_upbound)"
        return super().remedies(prompt, num_inputs) + [fewer] * (num_inputs > 1)

    def _num_tiles(self, visual: Visual) -> int:
        """Tiles of an image, frames of a video. Raises ValueError if it cannot be used."""
        kind, name = visual
        if kind == "image":
            check_image(self.folder / name, decode_dicom=False)
            return self.preprocessor.num_tiles(image_size(self.folder / name)) if self.preprocessor.grids else 1
        if self.videos is None:
            raise ValueError(f"it has the video {name}; give --video_folder")
        return self.videos.num_frames(name)

    def __getitem__(self, index: int) -> dict:
        sample = self.sample(index)
        images = [self.preprocessor.pixels(self._load(*visual)) for visual in sample.inputs]
        tiles = sum(len(image) for image in images)
        if tiles != sample.num_inputs:
            names = ", ".join(name for _, name in sample.inputs)
            raise ValueError(f"{self.data_path}: {names} changed since the run began ({tiles} tiles); start it again")
        return self.as_item(sample) | {"images": images}

    def _load(self, kind: str, name: str):
        """An image, or the frames of a video."""
        return load_image(self.folder / name, keep_grey=True) if kind == "image" else self.videos.frames(name)


class ReportCollator(ResponseCollator):
    """ResponseCollator with the batch's images [n, 3, S, S] and one key per tile for what `masked_drop` keeps."""

    def __init__(self, config, forward_process: ForwardProcess, pad_to_multiple_of: int = 1):
        super().__init__(config.text_config, forward_process, pad_to_multiple_of)
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
