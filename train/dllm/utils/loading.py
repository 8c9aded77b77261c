"""Loading that refuses a folder whose weights are not all there."""

from transformers import PreTrainedModel


def load_whole(model_class: type[PreTrainedModel], folder: str, **kwargs) -> PreTrainedModel:
    """`model_class.from_pretrained(folder)` from safetensors files.

    Raises ValueError if a weight is missing or has another shape than the config says; transformers would leave it
    random.
    """
    model, info = model_class.from_pretrained(
        folder, use_safetensors=True, ignore_mismatched_sizes=True, output_loading_info=True, **kwargs
    )
    lacking = sorted([*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])])
    if lacking:
        raise ValueError(
            f"{folder} lacks the weight {lacking[0]} in the shape of its config: its files do not belong together; "
            "copy or train it again"
        )
    return model
