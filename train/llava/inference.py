"""Writes reports for images: the one way in of demo and evaluation."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from PIL import Image
from torch import Tensor

from dllm.core.decoding import Decoding
from llava.constants import DEFAULT_IMAGE_TOKEN, IMAGE_TOKEN_INDEX
from llava.conversation import build_prompt, encode
from llava.data.anyres import num_views, read_grids
from llava.data.images import preprocess_frames, preprocess_image
from llava.model.builder import load_pretrained_model
from llava.model.llava_arch import image_batch
from llava.model.multimodal_resampler.builder import num_image_tokens

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
BLANK = re.compile("_{2,}")
BLANK_LENGTH = 16


@dataclass
class Request:
    """One report to write: RGB images (a list of them is the frames of a video), the human turn with its `<image>`
    marks, the seed of its randomness, and for infill a template: text that stays, and a run of two or more underscores
    wherever the model writes. `name` is what errors call it.
    """

    images: list[Image.Image | list[Image.Image]]
    question: str
    seed: int = 0
    template: str = ""
    name: str = "the request"


@dataclass(frozen=True)
class Report:
    """A report, its tokens up to and including the stop token (a template's text among them), and the denoising steps
    that it took.
    """

    text: str
    tokens: int
    steps: int


def tokens_per_step(reports: Iterable[Report]) -> float:
    """Tokens of all these reports over their steps."""
    counts = [(report.tokens, report.steps) for report in reports]
    return sum(tokens for tokens, _ in counts) / max(1, sum(steps for _, steps in counts))


class ReportWriter:
    """A trained model behind text: requests in, reports out. Raises ValueError on an incomplete folder."""

    def __init__(self, model_path: str, device: str = "cpu", dtype: str = "float32"):
        if dtype not in DTYPES:
            raise ValueError(f"unknown dtype {dtype!r}; known: {', '.join(DTYPES)}")
        self.tokenizer, self.model, self.processor = load_pretrained_model(model_path, device, DTYPES[dtype])
        self.config = self.model.config
        self.grids = read_grids(
            self.config.image_aspect_ratio, self.config.image_grid_pinpoints, self.config.vision_config.image_size
        )

    def check(self, arguments: dict) -> Decoding:
        """The decoding that these arguments of `write` ask for. Raises ValueError on an unknown or impossible one."""
        gen_kwargs = dict(arguments)
        gen_kwargs.pop("stop_strings", None)
        blank_length = gen_kwargs.pop("blank_length", BLANK_LENGTH)
        if type(blank_length) is not int or blank_length < 1:
            raise ValueError(f"blank_length must be a whole number of at least 1, not {blank_length!r}")
        return Decoding.of(self.config.text_config, **gen_kwargs)

    def write(
        self,
        requests: list[Request],
        stop_strings: Sequence[str] = (),
        blank_length: int = BLANK_LENGTH,
        on_step=None,
        **gen_kwargs,
    ) -> list[Report]:
        """Reports in the order of the requests, as one batch. Each is independent of the others.

        `gen_kwargs` as in `dllm.core.decoding.Decoding`; a report's text ends before the first of `stop_strings`. A
        blank of a template has `blank_length` tokens if text follows it, and else ends where the model stops.
        Raises ValueError, before any work, on arguments that are impossible or a template that cannot be filled in.
        """
        decoding = self.check(gen_kwargs | {"blank_length": blank_length})
        if not requests:
            return []
        drafts = [self._draft(request.template, blank_length, decoding.gen_length) for request in requests]
        for request in requests:
            self._check_length(request, decoding.gen_length)
        draft = _rectangle(drafts, self.config.text_config.mask_token_id).to(self.model.device)  # [B, n]
        input_ids, valid, pixels = self.inputs(requests)
        seeds = [request.seed for request in requests]
        generation = self.model.generate(
            input_ids, valid, pixels, seeds=seeds, draft=draft, on_step=on_step, **gen_kwargs
        )
        texts = [cut(self.decode(ids), stop_strings) for ids in generation.ids.tolist()]
        counts = zip(generation.lengths.tolist(), generation.steps.tolist(), strict=True)
        return [Report(text, tokens, steps) for text, (tokens, steps) in zip(texts, counts, strict=True)]

    def write_all(self, requests: Iterable[Request], batch_size: int, **arguments) -> Iterator[Report]:
        """Reports in the order of the requests, which are taken `batch_size` at a time and only when it is their turn.

        `arguments` as in `write`, without `on_step`; they are checked at the call, before the first request is taken.
        """
        if type(batch_size) is not int or batch_size < 1:
            raise ValueError(f"batch_size must be a whole number of at least 1, not {batch_size!r}")
        self.check(arguments)
        requests = iter(requests)
        batches = iter(lambda: list(islice(requests, batch_size)), [])
        return (report for batch in batches for report in self.write(batch, **arguments))

    def inputs(self, requests: list[Request]) -> tuple[Tensor, Tensor, Tensor]:
        """Prompts as left-padded ids and their validity, [B, P] each, and the pixels of all tiles [n, 3, S, S].

        Raises ValueError if the images of a request and the marks in its question differ in number.
        """
        prompts = [self._prompt(request) for request in requests]
        device = self.model.device
        input_ids = _rectangle(prompts, 0, left=True).to(device)
        valid = _rectangle([[1] * len(ids) for ids in prompts], 0, left=True).to(device)
        images = [self._pixels(image) for request in requests for image in request.images]
        return input_ids, valid, image_batch(images, self.config.vision_config.image_size).to(device, self.model.dtype)

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
        counts = [num_image_tokens(self.config) * self._num_tiles(image) for image in request.images]
        ids = build_prompt(self.tokenizer, turns, counts, self.config.version)
        assert ids.count(IMAGE_TOKEN_INDEX) == sum(counts)
        return ids

    def _num_tiles(self, image: Image.Image | list[Image.Image]) -> int:
        if isinstance(image, list):
            return len(image)
        return num_views(image.size, self.grids, self.config.vision_config.image_size) if self.grids else 1

    def _pixels(self, image: Image.Image | list[Image.Image]) -> Tensor:
        """Tiles [n, 3, S, S] of an image, or the frames of a video."""
        mode = self.config.image_aspect_ratio
        if isinstance(image, list):
            return preprocess_frames(image, self.processor, mode)
        return preprocess_image(image, self.processor, mode, self.grids)

    def _check_length(self, request: Request, gen_length: int) -> None:
        """Raises ValueError if the model has too few positions for a prompt and its report."""
        prompt, positions = self._prompt(request), self.config.text_config.max_position_embeddings
        if len(prompt) + gen_length > positions:
            tiles = sum(self._num_tiles(image) for image in request.images)
            raise ValueError(
                f"{request.name}: a prompt of {len(prompt)} tokens, {prompt.count(IMAGE_TOKEN_INDEX)} of them from "
                f"{tiles} tiles, leaves no room for gen_length {gen_length} in the {positions} positions of the model; "
                "give fewer images or frames, shorten the question or lower gen_length"
            )

    def _draft(self, template: str, blank_length: int, gen_length: int) -> list[int]:
        """The canvas of a template up to where it is open: its text as ids, mask tokens in its blanks."""
        if not template:
            return []
        # A word's token holds the space before it, so the space before a blank belongs to what the model writes there.
        *texts, end = (text.rstrip(" ") for text in BLANK.split(template.strip()))
        if not texts:
            raise ValueError(f"the template {template!r} has no blank: put ____ where the model is to write")
        lengths = [blank_length] * len(texts)
        if not end:
            lengths[-1] = 1  # what follows is open
        config, ids = self.config.text_config, []
        for text, length in zip(texts, lengths, strict=True):
            ids += self._kept(text) + [config.mask_token_id] * length
        if end:
            ids += self._kept(end) + [config.stop_token_ids[0]]
        if len(ids) > gen_length:
            raise ValueError(
                f"the template needs {len(ids)} tokens, {blank_length} for a blank, but gen_length is {gen_length}: "
                "raise gen_length, lower blank_length or shorten the template"
            )
        return ids

    def _kept(self, text: str) -> list[int]:
        """Ids of a template's text, which decode to just this text."""
        config, ids = self.config.text_config, encode(self.tokenizer, text)
        special = {config.mask_token_id, config.tail_token_id, *config.stop_token_ids}
        if special.intersection(ids) or self.tokenizer.decode(ids, skip_special_tokens=True) != text:
            raise ValueError(
                f"the template's text {text!r} would not stay as it is: take special tokens and rare characters out"
            )
        return ids


def _rectangle(rows: list[list[int]], filler: int, left: bool = False) -> Tensor:
    """Rows of any length as one tensor [B, longest], filled up on the right or on the left."""
    longest = max(len(row) for row in rows)
    fillers = [[filler] * (longest - len(row)) for row in rows]
    filled = [more + row if left else row + more for row, more in zip(rows, fillers, strict=True)]
    return torch.tensor(filled, dtype=torch.long)


def cut(text: str, stop_strings: Sequence[str]) -> str:
    """The text before the first of the stop strings."""
    places = [text.find(stop) for stop in stop_strings if stop in text]
    return text[: min(places)].rstrip() if places else text
