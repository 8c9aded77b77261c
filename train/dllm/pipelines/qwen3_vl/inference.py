"""Requests with images in, texts out."""

from collections.abc import Iterable

import torch
from torch import Tensor

from dllm.inference.writer import Request, Writer
from dllm.pipelines.loading import check_folder
from dllm.pipelines.qwen3_vl.modeling_qwen3_vl import Qwen3VLForMaskedLM
from dllm.pipelines.qwen3_vl.processing import Qwen3VLProcessor


class Qwen3VLWriter(Writer):
    """A Qwen3VLForMaskedLM behind text: a request's inputs are its images, which go where its question marks them with
    `<image>`, else before it. Raises ValueError on an incomplete folder.
    """

    def __init__(self, folder: str, device: str = "cpu", dtype: torch.dtype = torch.float32):
        check_folder(folder, "tokenizer.json", "preprocessor_config.json")
        self.processor = Qwen3VLProcessor.from_pretrained(folder)
        model = Qwen3VLForMaskedLM.from_pretrained(folder, dtype=dtype)
        super().__init__(self.processor.tokenizer, model.to(device).eval())

    def prompt_ids(self, request: Request) -> list[int]:
        return self.processor.prompt_ids(request.question, request.inputs, request.system)

    def model_inputs(self, requests: list[Request]) -> Iterable[Tensor]:
        return self.processor.tensors([image for request in requests for image in request.inputs]).values()
