"""Text and images to what the model takes, without torchvision: tokenizer, image processor, and prompts of both.

`processor` is any object with `tokenizer` and `image_processor`: the one here, or transformers' own Qwen3VLProcessor,
which cannot be built without torchvision because it brings a processor of videos.
"""

import io
import re
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from torch import Tensor
from transformers import AutoProcessor, AutoTokenizer, BatchFeature, PreTrainedTokenizerBase
from transformers.models import qwen3_vl
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLConfig
from transformers.utils import is_torchvision_available

from dllm.data.conversation import CHATML_TEMPLATE, build_prompt
from dllm.inference.processing import PromptProcessor
from dllm.pipelines.qwen3_vl.modeling_qwen3_vl import A2DQwen3VLConfig
from dllm.pipelines.special_tokens import ensure_mask_token

MARKS = ("<|vision_start|>", "<|image_pad|>", "<|vision_end|>")  # around an image, and of each of its visual tokens
VIDEO_PAD = "<|video_pad|>"
MARK = re.compile(r"<image>\n?")
PLACE = "\ufdef"  # stands in text where an image goes: a noncharacter of Unicode, which no text should hold


class Qwen3VLProcessor(PromptProcessor):
    """Tokenizer and image processor of a Qwen3-VL folder: `processor(images=image, text="...")`."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, image_processor: Qwen2VLImageProcessorPil):
        super().__init__(tokenizer, image_processor)
        self.image_processor = image_processor

    @classmethod
    def from_pretrained(cls, folder: str, **kwargs) -> "Qwen3VLProcessor":
        """Those of a folder or hub name, with a mask token. Raises ValueError if the folder lacks a file."""
        for file in ("tokenizer.json", "preprocessor_config.json"):
            if Path(folder).is_dir() and not (Path(folder) / file).is_file():
                raise ValueError(f"{folder} has no {file}: copy the whole folder of a Qwen3-VL model")
        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokenizer.chat_template = tokenizer.chat_template or CHATML_TEMPLATE
        ensure_mask_token(tokenizer)
        return cls(tokenizer, Qwen2VLImageProcessorPil.from_pretrained(folder))

    def __call__(self, images=None, text: str | list[str] = "", system: str | None = None, **kwargs) -> BatchFeature:
        """`input_ids` and `attention_mask` [B, P], `pixel_values` and `image_grid_thw`.

        `images` as `open_image` takes them: one, a list or None for a question, a list of these for a list of
        questions. Raises ValueError if images and marks differ in number.
        """
        return self.encode(images, text, system)

    def prompt_ids(self, question: str, inputs: list, system: str | None = None) -> list[int]:
        turns = [{"from": "human", "value": question}]
        turns = place_images(turns, turns, len(inputs))
        return build_visual_prompt(self, turns, [open_image(image).size for image in inputs], system)

    def tensors(self, inputs: list) -> dict[str, Tensor]:
        return image_inputs(self, [load_image(image) for image in inputs])


for config_class in (Qwen3VLConfig, A2DQwen3VLConfig):
    AutoProcessor.register(config_class, Qwen3VLProcessor, exist_ok=True)
if not is_torchvision_available():
    # Published folders name the class; AutoProcessor looks it up here, and the one it finds could not be built.
    qwen3_vl.Qwen3VLProcessor = Qwen3VLProcessor


def build_visual_prompt(
    processor, turns: list[dict], sizes: Sequence[tuple[int, int]], system: str | None = None
) -> list[int]:
    """Ids of everything before an answer (`dllm.data.conversation.build_prompt`); the i-th PLACE in the text becomes
    the visual tokens of an image of `sizes[i]`, width and height in pixels, between their marks, as Qwen3-VL's chat
    template has them. Raises ValueError if an image is too narrow.
    """
    start, image, end = processor.tokenizer.convert_tokens_to_ids(list(MARKS))
    images = processor.image_processor
    patches = [images.get_number_of_image_patches(height, width, {}) for width, height in sizes]
    placeholders = [[start, *[image] * (number // images.merge_size**2), end] for number in patches]
    return build_prompt(processor.tokenizer, turns, system, PLACE, placeholders)


def image_inputs(processor, images: Sequence[Image.Image]) -> dict[str, Tensor]:
    """`pixel_values` [p, 3 * 2 * side^2] of the patches of all images and `image_grid_thw` [n, 3]; without images those
    of a blank one, which no place asks for.
    """
    side = processor.image_processor.patch_size * processor.image_processor.merge_size
    images = list(images) or [Image.new("RGB", (side, side))]
    return dict(processor.image_processor(images=images, return_tensors="pt"))


def place_images(history: list[dict], conversation: list[dict], number: int) -> list[dict]:
    """The turns of `history` with PLACE where the `number` images of the whole conversation go.

    Raises ValueError if it has marks for another number of images.
    """
    marks = sum(len(MARK.findall(turn["value"])) for turn in conversation if turn["from"] == "human")
    if marks not in (number, 0):
        raise ValueError(f"it has {number} images for {marks} <image> marks in its questions; give one for each")
    turns = [turn | {"value": turn["value"].replace(PLACE, "\ufffd")} for turn in history]
    if not number:
        return turns
    if marks:
        return [turn | {"value": MARK.sub(PLACE, turn["value"])} if turn["from"] == "human" else turn for turn in turns]
    return [turns[0] | {"value": PLACE * number + turns[0]["value"]}, *turns[1:]]


def open_image(value) -> Image.Image:
    """The image of a path, of a dict with `bytes` or `path` as `datasets` has them undecoded, or one that is open.

    Reads no more than its header. Raises ValueError if that is no image.
    """
    if isinstance(value, Image.Image):
        return value
    source = value
    if isinstance(value, dict):
        source = io.BytesIO(value["bytes"]) if value.get("bytes") else value.get("path")
    try:
        return Image.open(source)
    except Exception as error:  # parsers raise errors of many types
        name = value if isinstance(value, str | Path) else "it"
        raise ValueError(f"image {name} does not open ({error}); copy it again or leave it out") from error


def load_image(value) -> Image.Image:
    """The image with its pixels, in RGB. Raises ValueError if they are damaged."""
    image = open_image(value)
    try:
        return image.convert("RGB")
    except Exception as error:
        name = getattr(image, "filename", "") or "an image"
        raise ValueError(f"{name} is damaged ({error}); copy it again or leave it out") from error
