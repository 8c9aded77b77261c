"""Masked-diffusion text models in EleutherAI's lm-evaluation-harness (package lm_eval 0.4), as its model `dllm`.

    lm_eval --model dllm --model_args pretrained=DIR --tasks gsm8k --apply_chat_template

Where a context went through the chat template (--apply_chat_template) a likelihood is that of the whole answer, on the
canvas and with the stop token and tail of training; else of the continuation's tokens alone, after the context as raw
text. Either is the bound of `dllm.evaluation.likelihood`, as LLaDA is evaluated (Nie et al. 2025).
"""

import json
from dataclasses import fields
from itertools import groupby

import torch
from accelerate import Accelerator
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs
from transformers import PreTrainedTokenizerBase

from dllm.core.decoding import Decoding
from dllm.core.noise import Quadrature
from dllm.core.patterns import BLOCKWISE
from dllm.data.collator import canvas_length
from dllm.data.conversation import NONCHARACTERS, build_prompt, encode
from dllm.data.text import plain_prompt, plain_start
from dllm.evaluation.likelihood import Pair, are_greedy, log_likelihoods
from dllm.inference.text import TextWriter
from dllm.inference.writer import DTYPES, Request
from dllm.pipelines.auto import frozen_pattern, load_text_model
from dllm.pipelines.text import model_folder

CHAT = NONCHARACTERS[0]  # begins a context that is a conversation
TURNS = {"user": "human", "assistant": "gpt"}
OF_SAMPLING = ("top_p", "top_k")  # in the arguments of many greedy tasks, where they change nothing


class ContextWriter(TextWriter):
    """Writes what follows a context of the harness."""

    def prompt_ids(self, request: Request) -> list[int]:
        return context_ids(self.tokenizer, request.question)


def context_ids(tokenizer: PreTrainedTokenizerBase, context: str) -> list[int]:
    """Ids of a context: of `DiffusionLM.apply_chat_template`, and what a task put after it, or raw text. Special tokens
    are those of the chat template alone.
    """
    if not context.startswith(CHAT):
        return plain_prompt(tokenizer, context)
    history, end = json.JSONDecoder().raw_decode(context, len(CHAT))
    system = history.pop(0)["content"] if history[0]["role"] == "system" else None
    start = history.pop()["content"] if history[-1]["role"] == "assistant" else ""  # of the answer
    turns = [{"from": TURNS[message["role"]], "value": message["content"]} for message in history]
    return build_prompt(tokenizer, turns, system) + encode(tokenizer, start + context[end:])


@register_model("dllm")
class DiffusionLM(TemplateLM):
    """A trained model of the folder `pretrained`.

    noise_levels  pairs of views over which a likelihood is averaged: 64 are LLaDA's 128 single views
    max_length    tokens of a prompt and its response; a longer text of a perplexity task is cut into pieces that do not
                  see each other, any other request that is longer is an error
    batch_size    requests that are written together, and rows of a pass for likelihoods, of which each takes
                  `noise_levels`

    All other arguments are those of `dllm.core.decoding.Decoding`; a task's own generation arguments come before them.
    Its limit of tokens is the canvas under block-wise patterns; the others learned a canvas of their own.
    Raises ValueError on an unknown or impossible argument.
    """

    def __init__(
        self,
        pretrained: str = "",
        dtype: str = "float32",
        device: str | None = None,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        noise_levels: int = 64,
        max_length: int = 1024,
        **decoding,
    ):
        super().__init__()
        counts = {"batch_size": batch_size, "noise_levels": noise_levels, "max_length": max_length}
        for name, count in counts.items():
            if not str(count).isdigit() or int(count) < 1:
                raise ValueError(f"{name} {count!r}: give a whole number of at least 1")
        if unknown := decoding.keys() - {field.name for field in fields(Decoding)}:
            known = ", ".join(("pretrained", "dtype", *counts))
            raise ValueError(f"unknown model_args {sorted(unknown)[0]!r}; known: {known}, and those of Decoding")
        if dtype not in DTYPES or not pretrained:
            raise ValueError(f"--model_args needs pretrained=FOLDER, and a dtype of {', '.join(DTYPES)}, not {dtype!r}")
        self.accelerator = Accelerator()
        self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
        # lm_eval asks for cuda:0 where nobody asks for anything.
        usable = self._world_size == 1 and (torch.cuda.is_available() or not str(device).startswith("cuda"))
        self._device = torch.device(device) if device and usable else self.accelerator.device
        self.batch_size, self.noise_levels, self.max_length = map(int, (batch_size, noise_levels, max_length))
        self.pretrained, self.decoding = pretrained, decoding
        folder = model_folder(pretrained)
        frozen_pattern(folder)  # an autoregressive model is told apart
        self.tokenizer, model, _ = load_text_model(folder, chat=False, dtype=DTYPES[dtype])
        self.model = model.eval().to(self._device)
        self.max_length = min(self.max_length, model.diffusion.max_position_embeddings)
        self.writer = ContextWriter(self.tokenizer, self.model)
        self.writer.parse(decoding)

    @property
    def eot_token_id(self) -> int:
        return self.model.diffusion.stop_token_ids[0]

    @property
    def tokenizer_name(self) -> str:
        return self.pretrained.replace("/", "__")

    def apply_chat_template(self, chat_history: list[dict], add_generation_prompt: bool = True) -> str:
        """The conversation as a context; a last turn of the assistant is the start of its answer."""
        return CHAT + json.dumps(chat_history, ensure_ascii=False)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs) -> list[int]:
        return context_ids(self.tokenizer, string)

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        if context.startswith(CHAT):
            return context_ids(self.tokenizer, context), encode(self.tokenizer, continuation)
        return super()._encode_pair(context, continuation)

    def _loglikelihood_tokens(self, requests: list[tuple], **kwargs) -> list[tuple[float, bool]]:
        results = {}
        for chat in (False, True):
            indices = [index for index, ((context, _), *_) in enumerate(requests) if context.startswith(CHAT) == chat]
            stop = [self.eot_token_id] * chat
            pairs = [
                Pair(prompt if context else plain_start(self.tokenizer), response + stop)
                for (context, _), prompt, response in (requests[index] for index in indices)
            ]
            likelihoods, greedy = self._likelihoods(pairs, chat), are_greedy(self.model, pairs, self.batch_size, chat)
            results |= dict(zip(indices, zip(likelihoods, greedy, strict=True), strict=True))
        return [results[index] for index in range(len(requests))]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """The bound for whole texts without a prompt, as the sum over their pieces."""
        pieces = []
        for number, request in enumerate(requests):
            ids, first = encode(self.tokenizer, request.args[0]), plain_start(self.tokenizer)
            size = self.max_length - len(first)
            pieces += [(number, Pair(first, ids[start : start + size])) for start in range(0, len(ids), size)]
        sums = [0.0] * len(requests)
        likelihoods = self._likelihoods([pair for _, pair in pieces], chat=False)
        for (number, _), likelihood in zip(pieces, likelihoods, strict=True):
            sums[number] += likelihood
        return sums

    def _likelihoods(self, pairs: list[Pair], chat: bool) -> list[float]:
        """Raises ValueError if one is too long, before any work."""
        for prompt, response in pairs:
            canvas = canvas_length(self.model.diffusion, len(response)) if chat else len(response)
            if len(prompt) + canvas > self.max_length:
                raise ValueError(
                    f"a request has a prompt of {len(prompt)} tokens and a response of {canvas}, but there is room for "
                    f"{self.max_length}: give a longer max_length, as far as the model goes, or a lower --num_fewshot"
                )
        noise = Quadrature(points=self.noise_levels)
        return log_likelihoods(self.model, pairs, noise, self.noise_levels, self.batch_size, with_tail=chat)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Texts in the order of the requests; all arguments are checked before the first is written."""
        jobs = [(json.dumps(self.arguments(request.args[1])), -len(request.args[0])) for request in requests]
        for arguments in {arguments for arguments, _ in jobs}:
            self.writer.parse(json.loads(arguments))
        texts: dict[int, str] = {}
        longest_first = sorted(range(len(jobs)), key=jobs.__getitem__)
        for arguments, group in groupby(longest_first, key=lambda index: jobs[index][0]):
            group = list(group)
            asked = [Request([], requests[index].args[0], seed=index, name=f"request {index}") for index in group]
            responses = self.writer.write_all(asked, self.batch_size, **json.loads(arguments))
            for index, response in zip(group, responses, strict=True):
                texts[index] = response.text
                self.cache_hook.add_partial("generate_until", requests[index].args, response.text)
        return [texts[index] for index in range(len(requests))]

    def arguments(self, gen_kwargs: dict) -> dict:
        """Arguments of `Writer.write` for the generation arguments of a task."""
        task = normalize_gen_kwargs(gen_kwargs, default_max_gen_toks=0)
        until, tokens, sampled = task.pop("until"), task.pop("max_gen_toks"), task.pop("do_sample")
        if not sampled:
            task = {name: value for name, value in task.items() if name not in OF_SAMPLING}
        given = self.decoding | task
        if tokens and self.model.diffusion.attention_pattern in BLOCKWISE:
            given = {"gen_length": tokens} | given
        return given | {"stop_strings": [stop for stop in until if stop]}

    def all_gather(self, tensor: torch.Tensor) -> torch.Tensor:
        return self.accelerator.gather(tensor)

    def gather_object(self, obj, dst: int = 0) -> list | None:
        if self.world_size == 1:
            return [obj]
        gathered = [None] * self.world_size if self.rank == dst else None
        torch.distributed.gather_object(obj, gathered, dst)
        return gathered

    def barrier(self) -> None:
        self.accelerator.wait_for_everyone()
