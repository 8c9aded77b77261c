"""Images and questions to what LlavaQwen3ModelLM takes; `AutoProcessor.from_pretrained(folder)` gives it."""

from PIL import Image
from torch import Tensor
from transformers import AutoProcessor, BatchFeature, PreTrainedTokenizerBase, SiglipImageProcessorPil

from dllm.inference.processing import PromptProcessor
from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.conversation import build_prompt
from llava.data.images import ImagePreprocessor
from llava.model.builder import load_image_processor, load_tokenizer
from llava.model.language_model.llava_qwen import LlavaQwen3Config
from llava.model.llava_arch import image_batch
from llava.model.multimodal_resampler.builder import num_image_tokens

Visual = Image.Image | list[Image.Image]  # an image, or the frames of a video


class LlavaQwen3Processor(PromptProcessor):
    """`processor(images=image, text="<image>\\n...")`; without marks the images go before the question."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, image_processor: SiglipImageProcessorPil, config: LlavaQwen3Config
    ):
        super().__init__(tokenizer, image_processor)
        self.config, self.images = config, ImagePreprocessor(image_processor, config)

    @classmethod
    def from_pretrained(cls, folder: str, **kwargs) -> "LlavaQwen3Processor":
        """That of a trained folder. Raises ValueError if it is incomplete."""
        config = LlavaQwen3Config.from_pretrained(folder)
        return cls(load_tokenizer(folder), load_image_processor(folder, config), config)

    def __call__(self, images=None, text: str | list[str] = "", system: str | None = None, **kwargs) -> BatchFeature:
        """`input_ids` and `attention_mask` [B, P], and `images` [n, 3, S, S], all tiles of the batch.

        `images`: RGB images of Pillow; one, a list or None for a question, a list of these for a list of questions.
        Raises ValueError if images and marks differ in number.
        """
        return self.encode(images, text, system)

    def prompt_ids(self, question: str, inputs: list[Visual], system: str | None = None) -> list[int]:
        """Raises ValueError if inputs and the marks in the question differ in number."""
        marks = question.count(DEFAULT_IMAGE_TOKEN)
        if marks == 0:
            marks, question = len(inputs), f"{DEFAULT_IMAGE_TOKEN}\n" * len(inputs) + question
        if marks != len(inputs):
            raise ValueError(f"{len(inputs)} images for {marks} {DEFAULT_IMAGE_TOKEN} marks in the question")
        counts = [num_image_tokens(self.config) * self.num_tiles(image) for image in inputs]
        return build_prompt(self.tokenizer, [{"from": "human", "value": question}], counts, self.config.version, system)

    def tensors(self, inputs: list[Visual]) -> dict[str, Tensor]:
        return {"images": image_batch([self.images.pixels(image) for image in inputs], self.images.side)}

    def num_tiles(self, image: Visual) -> int:
        return len(image) if isinstance(image, list) else self.images.num_tiles(image.size)


AutoProcessor.register(LlavaQwen3Config, LlavaQwen3Processor)
