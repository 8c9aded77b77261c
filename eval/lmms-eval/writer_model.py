"""What our models of lmms_eval share: requests in, texts out, in batches, by a `dllm.inference.writer.Writer`."""

import sys
from abc import abstractmethod
from functools import partial
from itertools import groupby

import torch
from accelerate import Accelerator
from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms

from dllm.bar import Bar
from dllm.program import boundary


class WriterModel(lmms):
    """Writes one text per request. `batch_size` requests are written together; a text depends neither on its batch nor
    on the number of processes.

    name  what users type       unit  what is written, in the singular

    A subclass sets `writer` and makes its requests.
    """

    name: str
    unit = "text"

    @abstractmethod
    def request(self, args: tuple):
        """The `dllm.inference.writer.Request` of lmms_eval's arguments of a request."""

    def prepare(self, pretrained: str, given: dict, unknown: dict, batch_size: int | str) -> None:
        """Sets device and batch size. Raises ValueError for model arguments that are unknown, empty or impossible."""
        if unknown:
            known = ", ".join(["pretrained", *given])
            raise ValueError(f"unknown model_args {', '.join(unknown)}: choose from {known}")
        if empty := [name for name, value in given.items() if value == ""]:
            raise ValueError(f"model_args {empty[0]} is empty: give it a value, or leave it out")
        if not pretrained:
            raise ValueError("no checkpoint: give its folder with --model_args pretrained=FOLDER")
        if not str(batch_size).isdigit() or int(batch_size) < 1:
            raise ValueError(f"batch_size {batch_size!r}: give a whole number from 1")
        self.device = torch.device(given["device"] or Accelerator().device)
        self.batch_size = int(batch_size)

    @boundary()
    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Return one text per request, in their order. All generation arguments are checked before the first.

        Neighbours with equal arguments share batches. At the end rank 0 prints the mean tokens per step of its texts.
        """
        from dllm.inference.writer import tokens_per_step

        jobs = [(request.args, self.gen_kwargs(request)) for request in requests]
        for _, gen_kwargs in jobs:
            self.writer.parse(gen_kwargs)
        texts = []
        with Bar(total=len(jobs), desc=f"writing {self.unit}s", unit=self.unit, disable=self.rank != 0) as bar:
            for gen_kwargs, group in groupby(jobs, key=lambda job: job[1]):
                written = {}
                for index, text in self.write([args for args, _ in group], gen_kwargs):
                    written[index] = text
                    bar.update()
                texts += [written[index] for index in range(len(written))]
        if texts and self.rank == 0:
            self.tell(texts)
            print(f"{tokens_per_step(texts):.2f} tokens per step over {len(texts)} {self.unit}s", file=sys.stderr)
        return [text.text for text in texts]

    def gen_kwargs(self, request: Instance) -> dict:
        """Its generation arguments under the names of the writer; `until` is lmms_eval's name for stop_strings."""
        gen_kwargs = dict(request.args[1])
        until = gen_kwargs.pop("until", None)
        return gen_kwargs | ({"stop_strings": [until] if isinstance(until, str) else until} if until else {})

    def write(self, jobs: list[tuple], gen_kwargs: dict):
        """(index, text) of the requests with these arguments, as they are finished."""
        return enumerate(self.writing(gen_kwargs)(map(self.request, jobs)))

    def writing(self, gen_kwargs: dict):
        return partial(self.writer.write_all, batch_size=self.batch_size, **gen_kwargs)

    def tell(self, texts: list) -> None:
        """What else is worth saying at the end."""

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        raise NotImplementedError(f"{self.name} only generates text: choose a generate_until task")

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        raise NotImplementedError(f"{self.name} answers one question: choose a generate_until task")
