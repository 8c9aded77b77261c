"""Names and numbers that data, model and evaluation share."""

from dllm.core.losses import IGNORE_INDEX

IMAGE_TOKEN_INDEX = -200  # stands in prompt ids where one visual token goes
DEFAULT_IMAGE_TOKEN = "<image>"  # stands in text where an image goes

__all__ = ["DEFAULT_IMAGE_TOKEN", "IGNORE_INDEX", "IMAGE_TOKEN_INDEX"]
