"""What a training script of one's own calls beside the model and the trainer."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Collation:
    """How `Qwen3VLTrainer` makes batches: of its rows, by the processor, and as model and arguments say."""

    processor: object


def create_qwen3_vl_collator(processor, mask_prompt_loss: bool = True) -> Collation:
    """The collator of a `Qwen3VLTrainer`. `processor` is that of `AutoProcessor` or `Qwen3VLProcessor`.

    Raises ValueError without `mask_prompt_loss`: the tokens of an image cannot be targets.
    """
    if not mask_prompt_loss:
        raise ValueError("mask_prompt_loss False would make targets of the tokens of images; leave it True")
    if not hasattr(processor, "tokenizer") or not hasattr(processor, "image_processor"):
        raise ValueError(f"a processor has a tokenizer and an image processor, {type(processor).__name__} has not both")
    return Collation(processor)
