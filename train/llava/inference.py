"""Writes reports for images: the one way in of demo and evaluation."""

from dataclasses import dataclass

import torch
from PIL import Image

from dllm.core.sampler import Decoding
from llava.constants import DEFAULT_IMAGE_TOKEN, IMAGE_TOKEN_INDEX
from llava.conversation import build_prompt
from llava.data.images import preprocess_image
from llava.model.builder import load_pretrained_model
from llava.model.llava_arch import image_batch
from llava.model.multimodal_resampler.builder import num_image_tokens

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass
class Request:
    """One report to write: RGB images, the human turn with its `<image>` marks, and the seed of its randomness."""

    images: list[Image.Image]
    question: str
    seed: int = 0


class ReportWriter:
    """A trained model behind text: requests in, reports out. Raises ValueError on an incomplete folder."""

    def __init__(self, model_path: str, device: str = "cpu", dtype: str = "float32"):
        if dtype not in DTYPES:
            raise ValueError(f"unknown dtype {dtype!r}; known: {', '.join(DTYPES)}")
        self.tokenizer, self.model, self.processor = load_pretrained_model(model_path, device, DTYPES[dtype])
        self.config = self.model.config

    def check(self, gen_kwargs: dict) -> None:
        """Raises ValueError on an unknown generation argument or an impossible value."""
        Decoding.of(self.config.text_config, **{k: v for k, v in gen_kwargs.items() if k != "stop_strings"})

    def write(
        self, requests: list[Request], stop_strings: tuple[str, ...] = (), on_step=None, **gen_kwargs
    ) -> list[str]:
        """Reports in the order of the requests, as one batch. Each is independent of the others.

        `gen_kwargs` as in `dllm.core.sampler.Decoding`; a report ends before the first of `stop_strings`.
        """
        self.check(gen_kwargs)
        prompts = [self._prompt(request) for request in requests]
        longest = max(len(ids) for ids in prompts)
        device, dtype = self.model.device, self.model.dtype
        input_ids = torch.tensor([[0] * (longest - len(ids)) + ids for ids in prompts], device=device)
        valid = torch.tensor([[False] * (longest - len(ids)) + [True] * len(ids) for ids in prompts], device=device)
        mode = self.config.image_aspect_ratio
        images = [preprocess_image(image, self.processor, mode) for request in requests for image in request.images]
        pixels = image_batch(images, self.config.vision_config.image_size).to(device, dtype)
        seeds = [request.seed for request in requests]
        ids = self.model.generate(input_ids, valid, pixels, seeds=seeds, on_step=on_step, **gen_kwargs)
        return [cut(self.decode(row), stop_strings) for row in ids.tolist()]

    def decode(self, ids: list[int]) -> str:
        """The text of a response up to its stop token."""
        stops = set(self.config.text_config.stop_token_ids)
        end = next((place for place, token in enumerate(ids) if token in stops), len(ids))
        return self.tokenizer.decode(ids[:end], skip_special_tokens=True).strip()

    def _prompt(self, request: Request) -> list[int]:
        marks = request.question.count(DEFAULT_IMAGE_TOKEN)
        if marks != len(request.images):
            raise ValueError(f"{len(request.images)} images for {marks} {DEFAULT_IMAGE_TOKEN} marks in the question")
        turns = [{"from": "human", "value": request.question}]
        ids = build_prompt(self.tokenizer, turns, num_image_tokens(self.config), self.config.version)
        assert ids.count(IMAGE_TOKEN_INDEX) == marks * num_image_tokens(self.config)
        return ids


def cut(text: str, stop_strings: tuple[str, ...]) -> str:
    """The text before the first of the stop strings."""
    places = [text.find(stop) for stop in stop_strings if stop in text]
    return text[: min(places)].rstrip() if places else text
