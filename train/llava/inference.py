"""Writes reports for images: the one way in of demo and evaluation."""

from PIL import Image
from torch import Tensor

from dllm.inference import writer
from dllm.inference.templates import BLANK_LENGTH
from dllm.inference.writer import DTYPES, Request, Response, check_device, pace, tokens_per_step
from llava.constants import DEFAULT_IMAGE_TOKEN, IMAGE_TOKEN_INDEX
from llava.conversation import build_prompt
from llava.data.images import ImagePreprocessor
from llava.model.builder import load_pretrained_model
from llava.model.llava_arch import image_batch
from llava.model.multimodal_resampler.builder import num_image_tokens

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
        self.config, self.preprocessor = model.config, ImagePreprocessor(processor, model.config)

    def prompt_ids(self, request: Request) -> list[int]:
        """Raises ValueError if the images of a request and the marks in its question differ in number."""
        marks = request.question.count(DEFAULT_IMAGE_TOKEN)
        if marks != len(request.inputs):
            raise ValueError(f"{len(request.inputs)} images for {marks} {DEFAULT_IMAGE_TOKEN} marks in the question")
        turns = [{"from": "human", "value": request.question}]
        counts = [num_image_tokens(self.config) * self._num_tiles(image) for image in request.inputs]
        return build_prompt(self.tokenizer, turns, counts, self.config.version, request.system)

    def model_inputs(self, requests: list[Request]) -> tuple[Tensor]:
        return (self.pixels(requests),)

    def inputs(self, requests: list[Request]) -> tuple[Tensor, Tensor, Tensor]:
        """Ids and validity of the requests' prompts [B, P], and `pixels`: what the model's `generate` takes."""
        return *self.left_padded([self.prompt_ids(request) for request in requests]), self.pixels(requests)

    def pixels(self, requests: list[Request]) -> Tensor:
        """Pixels [n, 3, S, S] of all tiles of the requests' images."""
        images = [self.preprocessor.pixels(image) for request in requests for image in request.inputs]
        return image_batch(images, self.preprocessor.side).to(self.model.device, self.model.dtype)

    def too_long(self, request: Request, ids: list[int]) -> str:
        tiles = sum(self._num_tiles(image) for image in request.inputs)
        return f"give fewer images or frames: {ids.count(IMAGE_TOKEN_INDEX)} of its tokens come from {tiles} tiles"

    def _num_tiles(self, image: Image.Image | list[Image.Image]) -> int:
        return len(image) if isinstance(image, list) else self.preprocessor.num_tiles(image.size)
