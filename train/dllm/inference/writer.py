"""Requests in, texts out: batches of prompts through the sampler, for every model."""

import functools
import sys
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from dllm.core.decoding import Decoding
from dllm.core.language_model import MaskedDiffusionLM
from dllm.core.patterns import BLOCKWISE
from dllm.core.prompt import Prompt
from dllm.core.sampler import Generation, Step, finish
from dllm.inference.infill import Settled, settle
from dllm.inference.templates import BLANK_LENGTH, Template

OPEN = "____"  # the template of a response that is free
BLIND = (
    "a blank does not see the text behind its own block, as this model was trained block by block; "
    "where the text behind it matters, train one with ATTENTION_PATTERN=prefix"
)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@functools.cache
def warn(text: str) -> None:
    """Tells it on stderr, once in a process."""
    print(f"warning: {text}", file=sys.stderr)


def check_device(device: str) -> None:
    """Raises ValueError if this machine has no such device."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        cause = str(error).splitlines()[0]
        raise ValueError(f"--device {device}: {cause}; give cpu, or cuda where there is a GPU") from None


@dataclass
class Request:
    """One text to write: what the model is given beside text, the user's turn, the seed of its randomness, and for
    infill a template (`dllm.inference.templates`). `name` is what errors call it, `system` replaces the model's own.
    """

    inputs: list
    question: str
    seed: int = 0
    template: str = ""
    name: str = "the request"
    system: str | None = None


@dataclass(frozen=True)
class Response:
    """A text, its tokens up to and including the stop token (a template's text among them), and the denoising steps
    that it took.
    """

    text: str
    tokens: int
    steps: int


@dataclass(frozen=True)
class Arguments:
    """How texts are written: the decoding, strings before the first of which a text ends, most tokens of a blank."""

    decoding: Decoding
    stop_strings: Sequence[str]
    blank_length: int


def tokens_per_step(responses: Iterable[Response]) -> float:
    """Tokens of all these responses over their steps. It can be below 1: a step that wrote what the stop token then cut
    off counts, its token does not.
    """
    counts = [(response.tokens, response.steps) for response in responses]
    return sum(tokens for tokens, _ in counts) / max(1, sum(steps for _, steps in counts))


def pace(response: Response) -> str:
    """What a response took, and why that may be more steps than tokens."""
    told = f"{response.steps} for {response.tokens} tokens ({tokens_per_step([response]):.1f} tokens per step"
    if response.steps > response.tokens:
        told += "; steps that filled the canvas behind the end count too"
    return f"{told})"


class Writer(ABC):
    """A trained model behind text. A subclass says how requests become prompts."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, model: MaskedDiffusionLM):
        self.tokenizer, self.model, self.diffusion = tokenizer, model, model.diffusion

    @abstractmethod
    def prompt_ids(self, request: Request) -> list[int]:
        """Ids of a request's prompt."""

    def model_inputs(self, requests: list[Request]) -> Iterable[Tensor]:
        """What the model is given beside the ids of the prompts, as its `prepare_prompt` takes it."""
        return ()

    def prompts(
        self, requests: list[Request], ids: list[list[int]], decoding: Decoding
    ) -> tuple[Prompt, Prompt | None]:
        """The embedded prompts of these ids, and the ones that guidance leads away from (None: the core's own)."""
        inputs = (each.to(self.model.device) for each in self.model_inputs(requests))
        return self.model.prompts(*self.left_padded(ids), *inputs, decoding=decoding)

    def too_long(self, request: Request, ids: list[int]) -> str:
        """What could shorten a prompt that leaves no room."""
        return "shorten the question"

    def parse(self, arguments: dict) -> Arguments:
        """What these arguments of `write` ask for. Raises ValueError on an unknown or impossible one."""
        decoding = dict(arguments)
        stop_strings, blank_length = decoding.pop("stop_strings", ()), decoding.pop("blank_length", BLANK_LENGTH)
        if type(blank_length) is not int or blank_length < 1:
            raise ValueError(f"blank_length must be a whole number of at least 1, not {blank_length!r}")
        return Arguments(self.model.decoding(**decoding), stop_strings, blank_length)

    def write(self, requests: list[Request], on_step=None, **arguments) -> list[Response]:
        """Texts in the order of the requests, as one batch. Each is independent of the others.

        `arguments` are those of `dllm.core.decoding.Decoding`, `stop_strings` (a text ends before the first of them)
        and `blank_length` (most tokens of a template's blank that text follows: `dllm.inference.infill`). `on_step` as
        in `dllm.core.sampler`. Raises ValueError, before any work, on arguments that are impossible or a template that
        cannot be filled in.
        """
        return self.write_batch(requests, self.parse(arguments), on_step)

    def denoise(self, requests: list[Request], **arguments) -> Generator[Step, None, list[Response]]:
        """`write` step by step: yields the canvas after every step, and returns the responses.

        Raises the ValueError of `write` at the first step.
        """
        parsed = self.parse(arguments)
        prepared, settled = yield from self._prepared(requests, parsed)
        known = torch.stack([each.confidence for each in settled])  # [B, R]
        steps = self.model.denoise(*prepared)
        while True:
            try:
                step = next(steps)
            except StopIteration as end:
                return self._responses(end.value, settled, parsed)
            torch.maximum(step.confidence, known, out=step.confidence)
            yield step

    def write_all(self, requests: Iterable[Request], batch_size: int, **arguments) -> Iterator[Response]:
        """Texts in the order of the requests, which are taken `batch_size` at a time and only when it is their turn.

        `arguments` as in `write`; they are checked at the call, before the first request is taken.
        """
        if type(batch_size) is not int or batch_size < 1:
            raise ValueError(f"batch_size must be a whole number of at least 1, not {batch_size!r}")
        parsed, requests = self.parse(arguments), iter(requests)
        batches = iter(lambda: list(islice(requests, batch_size)), [])
        return (response for batch in batches for response in self.write_batch(batch, parsed))

    def write_batch(self, requests: list[Request], arguments: Arguments, on_step=None) -> list[Response]:
        """`write` with arguments that `parse` has checked."""
        if not requests:
            return []
        prepared, settled = finish(self._prepared(requests, arguments), on_step)
        return self._responses(finish(self.model.denoise(*prepared), on_step), settled, arguments)

    def _prepared(self, requests: list[Request], arguments: Arguments) -> Generator[Step, None, tuple]:
        """What the model's `denoise` takes, and each request's template with its inner blanks written,
        whose steps are yielded.
        """
        decoding, texts = arguments.decoding, [request.template or OPEN for request in requests]
        templates = [Template(text, self.tokenizer, self.diffusion, decoding.gen_length) for text in texts]
        if self.diffusion.attention_pattern in BLOCKWISE and any(template.closed for template in templates):
            warn(BLIND)
        ids = [self._checked_ids(request, decoding) for request in requests]
        with torch.no_grad():
            prompts = self.prompts(requests, ids, decoding)
        decode, most, settled = self.tokenizer.decode, arguments.blank_length, []
        for row, (request, template) in enumerate(zip(requests, templates, strict=True)):
            alone = [each and each.keep(torch.tensor([row], device=each.valid.device)) for each in prompts]
            done = yield from settle(self.model.denoise, decode, template, alone, decoding, request.seed, most)
            settled.append(done)
        canvas = rectangle([each.canvas for each in settled], self.diffusion.mask_token_id).to(self.model.device)
        return (*prompts, decoding, [request.seed for request in requests], canvas), settled

    def _responses(self, generation: Generation, settled: list[Settled], arguments: Arguments) -> list[Response]:
        texts = [cut(self.decode(ids), arguments.stop_strings) for ids in generation.ids.tolist()]
        counts = zip(texts, generation.lengths.tolist(), generation.steps.tolist(), settled, strict=True)
        return [Response(text, tokens, steps + before.steps) for text, tokens, steps, before in counts]

    def left_padded(self, ids: list[list[int]]) -> tuple[Tensor, Tensor]:
        """Ids of prompts of any length and their validity, [B, P] each, on the model's device."""
        valid = [[1] * len(row) for row in ids]
        return tuple(rectangle(rows, 0, left=True).to(self.model.device) for rows in (ids, valid))

    def _checked_ids(self, request: Request, decoding: Decoding) -> list[int]:
        """Raises ValueError if the model has too few positions for a prompt and its response."""
        ids = self.prompt_ids(request)
        try:
            decoding.check_room(self.diffusion, len(ids))
        except ValueError as error:
            raise ValueError(f"{request.name}: {error}; or {self.too_long(request, ids)}") from None
        return ids

    def decode(self, ids: list[int]) -> str:
        """The text of a response up to its stop token."""
        stops = set(self.diffusion.stop_token_ids)
        end = next((index for index, token in enumerate(ids) if token in stops), len(ids))
        return self.tokenizer.decode(ids[:end], skip_special_tokens=True).strip()


def rectangle(rows: list[list[int]], filler: int, left: bool = False) -> Tensor:
    """Rows of any length as one tensor [B, longest], filled up on the right or on the left."""
    longest = max(len(row) for row in rows)
    fillers = [[filler] * (longest - len(row)) for row in rows]
    filled = [more + row if left else row + more for row, more in zip(rows, fillers, strict=True)]
    return torch.tensor(filled, dtype=torch.long)


def cut(text: str, stop_strings: Sequence[str]) -> str:
    """The text before the first of the stop strings."""
    ends = [text.find(stop) for stop in stop_strings if stop in text]
    return text[: min(ends)].rstrip() if ends else text
