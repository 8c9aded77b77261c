"""Writes reports for images: the one way in of demo and evaluation."""

from torch import Tensor

from dllm.inference import writer
from dllm.inference.templates import BLANK_LENGTH
from dllm.inference.writer import DTYPES, Request, Response, check_device, pace, tokens_per_step
from llava.constants import DEFAULT_IMAGE_TOKEN, IMAGE_TOKEN_INDEX
from llava.model.builder import load_pretrained_model
from llava.model.processing import LlavaQwen3Processor

__all__ = ["BLANK_LENGTH", "DTYPES", "Report", "ReportWriter", "Request", "pace", "tokens_per_step"]

Report = Response


class ReportWriter(writer.Writer):
    """A trained LlavaQwen3ModelLM behind text: requests with RGB images in, reports out.

    A list of images is the frames of a video. Raises ValueError on an incomplete folder.
    """

    def __init__(self, model_path: str, device: str = "cpu", dtype: str = "float32"):
        if dtype not in DTYPES:
            raise ValueError(f"unknown dtype {dtype!r}; known: {', '.join(DTYPES)}")
        check_device(device)
        tokenizer, model, processor = load_pretrained_model(model_path, device, DTYPES[dtype])
        super().__init__(tokenizer, model)
        self.config, self.processor = model.config, LlavaQwen3Processor(tokenizer, processor, model.config)

    def prompt_ids(self, request: Request) -> list[int]:
        """Raises ValueError if the images of a request and the marks in its question differ in number."""
        if request.inputs and DEFAULT_IMAGE_TOKEN not in request.question:  # a program says where they go
            raise ValueError(f"{len(request.inputs)} images for 0 {DEFAULT_IMAGE_TOKEN} marks in the question")
        return self.processor.prompt_ids(request.question, request.inputs, request.system)

    def model_inputs(self, requests: list[Request]) -> tuple[Tensor]:
        return (self.pixels(requests),)

    def inputs(self, requests: list[Request]) -> tuple[Tensor, Tensor, Tensor]:
        """Ids and validity of the requests' prompts [B, P], and `pixels`: what the model's `generate` takes."""
        return *self.left_padded([self.prompt_ids(request) for request in requests]), self.pixels(requests)

    def pixels(self, requests: list[Request]) -> Tensor:
        """Pixels [n, 3, S, S] of all tiles of the requests' images."""
        pixels = self.processor.tensors([image for request in requests for image in request.inputs])["images"]
        return pixels.to(self.model.device, self.model.dtype)

    def too_long(self, request: Request, ids: list[int]) -> str:
        tiles = sum(map(self.processor.num_tiles, request.inputs))
        return f"give fewer images or frames: {ids.count(IMAGE_TOKEN_INDEX)} of its tokens come from {tiles} tiles"
