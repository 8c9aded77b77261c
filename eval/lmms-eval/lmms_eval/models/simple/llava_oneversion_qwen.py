"""LLaDA-V-Qwen as a model of lmms_eval: requests in, reports out, in batches."""

import os
import sys
from dataclasses import asdict
from functools import partial
from itertools import groupby

import torch
from accelerate import Accelerator
from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from tqdm import tqdm

from dllm.program import boundary
from report_scores.data import with_image_tokens
from report_scores.provenance import checkpoint_files, code_sha256, git_state, versions


class LlavaOneVersionQwen(lmms):
    """Writes one report per request with the checkpoint in `pretrained`.

    `device` is the one of the process by default; `dtype` is float32 or bfloat16. `batch_size` requests are generated
    together; a report depends neither on its batch nor on the number of processes. `reports` is a folder that keeps
    every finished report: a run with the same model, data and arguments takes it from there (`report_scores.resume`).
    Raises ValueError (as one line and exit status 1) for an unknown model argument or template, and for an incomplete
    checkpoint folder.
    """

    @boundary()
    def __init__(
        self,
        pretrained: str = "",
        conv_template: str = "qwen",
        device: str | None = None,
        dtype: str = "float32",
        reports: str | None = None,
        batch_size: int | str = 1,
        **unknown,
    ) -> None:
        super().__init__()
        if unknown:
            known = "pretrained, conv_template, device, dtype, reports"
            raise ValueError(f"unknown model_args {', '.join(unknown)}: choose from {known}")
        given = {"conv_template": conv_template, "device": device, "dtype": dtype, "reports": reports}
        if empty := [name for name, value in given.items() if value == ""]:
            raise ValueError(f"model_args {empty[0]} is empty: give it a value, or leave it out")
        if not pretrained:
            raise ValueError("no checkpoint: give its folder with --model_args pretrained=FOLDER")
        if not str(batch_size).isdigit() or int(batch_size) < 1:
            raise ValueError(f"batch_size {batch_size!r}: give a whole number from 1")
        from llava.conversation import check_version
        from llava.inference import ReportWriter

        check_version(conv_template)
        self.device = torch.device(device or Accelerator().device)
        self.batch_size = int(batch_size)
        self.writer = ReportWriter(pretrained, device=str(self.device), dtype=dtype)
        self.finished = self._open(reports, pretrained, conv_template, dtype) if reports else None

    @boundary()
    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Return one text per request, in their order. All generation arguments are checked before the first.

        Neighbours with equal arguments share batches. At the end rank 0 prints the mean tokens per step of its reports.
        """
        from llava.inference import tokens_per_step

        jobs = [(request.args, _gen_kwargs(request)) for request in requests]
        for _, gen_kwargs in jobs:
            self.writer.parse(gen_kwargs)
        reports = []
        with tqdm(total=len(jobs), desc="writing reports", unit="report", disable=self.rank != 0) as bar:
            for gen_kwargs, group in groupby(jobs, key=lambda job: job[1]):
                written = {}
                for index, report in self._write([args for args, _ in group], gen_kwargs):
                    written[index] = report
                    bar.update()
                reports += [written[index] for index in range(len(written))]
        if reports and self.rank == 0:
            if self.finished and self.finished.reused:
                print(f"{self.finished.reused} of {len(reports)} reports are those of an earlier run", file=sys.stderr)
            print(f"{tokens_per_step(reports):.2f} tokens per step over {len(reports)} reports", file=sys.stderr)
        return [report.text for report in reports]

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        raise NotImplementedError("llava_oneversion_qwen only generates text: choose a generate_until task")

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        raise NotImplementedError("llava_oneversion_qwen answers one question: choose a generate_until task")

    def _open(self, folder: str, pretrained: str, conv_template: str, dtype: str):
        """The finished reports in `folder`, for a model that is loaded."""
        from report_scores.resume import FinishedReports

        on_gpu = self.device.type == "cuda"
        settings = {
            "checkpoint_files": checkpoint_files(pretrained),
            "conv_template": conv_template,
            "dtype": dtype,
            "device": torch.cuda.get_device_name(self.device) if on_gpu else self.device.type,
            "code_sha256": code_sha256(),
            "versions": versions(),
        }
        self.about = {"checkpoint": pretrained, "git": git_state()}
        return FinishedReports(folder, settings, rank=int(os.environ.get("RANK", 0)))  # self.rank comes later

    def _write(self, jobs: list[tuple], gen_kwargs: dict):
        """(index, report) of the requests with these arguments, as they are finished."""
        requests = map(self._request, jobs)
        write = partial(self.writer.write_all, batch_size=self.batch_size, **gen_kwargs)
        if self.finished is None:
            return enumerate(write(requests))
        arguments = self._arguments(gen_kwargs)
        self.finished.describe(self.about | {"generation": arguments})
        return self.finished.complete(requests, arguments, write)

    def _arguments(self, gen_kwargs: dict) -> dict:
        """Every argument of generation by its value, the checkpoint's own included."""
        decoding, pattern = self.writer.parse(gen_kwargs).decoding, self.writer.config.text_config.attention_pattern
        in_use = asdict(decoding) | {"cache": decoding.cache_for(pattern), "attention_pattern": pattern}
        return in_use | {"stop_strings": gen_kwargs.get("stop_strings", [])}

    def _request(self, args: tuple):
        """Load the images of a request and put their tokens in front of its question where it has none."""
        from llava.inference import Request

        context, _, doc_to_visual, doc_id, task, split = args
        doc = self.task_dict[task][split][doc_id]
        images = doc_to_visual(doc)
        question, system = with_image_tokens(context, len(images)), doc.get("system")
        return Request(images, question, seed=doc_id, name=f"document {doc_id}", system=system)


def _gen_kwargs(request: Instance) -> dict:
    """The generation arguments under the names of ReportWriter; `until` is lmms_eval's name for stop_strings."""
    gen_kwargs = dict(request.args[1])
    until = gen_kwargs.pop("until", None)
    return gen_kwargs | ({"stop_strings": [until] if isinstance(until, str) else until} if until else {})
