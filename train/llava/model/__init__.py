"""SigLIP encoder -> resampler -> projector -> Qwen3 diffusion language model."""

from llava.model.language_model.llava_qwen import LlavaQwen3Config, LlavaQwen3ModelLM
from llava.model.processing import LlavaQwen3Processor
