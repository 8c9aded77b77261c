"""LLaDA-V-Qwen as a model of lmms_eval: requests in, reports out, in batches."""

import os
import sys
from dataclasses import asdict

import torch
from writer_model import WriterModel

from dllm.program import boundary
from report_scores.data import with_image_tokens
from report_scores.provenance import checkpoint_files, code_sha256, git_state, versions


class LlavaOneVersionQwen(WriterModel):
    """Writes one report per request with the checkpoint in `pretrained`.

    `device` is the one of the process by default; `dtype` is float32 or bfloat16. `batch_size` requests are generated
    together; a report depends neither on its batch nor on the number of processes. `reports` is a folder that keeps
    every finished report: a run with the same model, data and arguments takes it from there (`report_scores.resume`).
    Raises ValueError (as one line and exit status 1) for an unknown model argument or template, and for an incomplete
    checkpoint folder.
    """

    name = "llava_oneversion_qwen"
    unit = "report"

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
        given = {"conv_template": conv_template, "device": device, "dtype": dtype, "reports": reports}
        self.prepare(pretrained, given, unknown, batch_size)
        from llava.conversation import check_version
        from llava.inference import ReportWriter

        check_version(conv_template)
        self.writer = ReportWriter(pretrained, device=str(self.device), dtype=dtype)
        self.finished = self._open(reports, pretrained, conv_template, dtype) if reports else None

    def tell(self, texts: list) -> None:
        if self.finished and self.finished.reused:
            print(f"{self.finished.reused} of {len(texts)} reports are those of an earlier run", file=sys.stderr)

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

    def write(self, jobs: list[tuple], gen_kwargs: dict):
        if self.finished is None:
            return super().write(jobs, gen_kwargs)
        arguments = self._arguments(gen_kwargs)
        self.finished.describe(self.about | {"generation": arguments})
        return self.finished.complete(map(self.request, jobs), arguments, self.writing(gen_kwargs))

    def _arguments(self, gen_kwargs: dict) -> dict:
        """Every argument of generation by its value, the checkpoint's own included."""
        decoding, pattern = self.writer.parse(gen_kwargs).decoding, self.writer.config.text_config.attention_pattern
        in_use = asdict(decoding) | {"cache": decoding.cache_for(pattern), "attention_pattern": pattern}
        return in_use | {"stop_strings": gen_kwargs.get("stop_strings", [])}

    def request(self, args: tuple):
        """Load the images of a request and put their tokens in front of its question where it has none."""
        from llava.inference import Request

        context, _, doc_to_visual, doc_id, task, split = args
        doc = self.task_dict[task][split][doc_id]
        images = doc_to_visual(doc)
        question, system = with_image_tokens(context, len(images)), doc.get("system")
        return Request(images, question, seed=doc_id, name=f"document {doc_id}", system=system)
