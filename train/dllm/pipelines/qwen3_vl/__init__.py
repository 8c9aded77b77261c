"""Qwen3-VL as a masked-diffusion model: images and text in, text out."""

from dllm.pipelines.qwen3_vl.inference import Qwen3VLWriter
from dllm.pipelines.qwen3_vl.modeling_qwen3_vl import A2DQwen3VLConfig, Qwen3VLForMaskedLM
from dllm.pipelines.qwen3_vl.processing import Qwen3VLProcessor
from dllm.pipelines.qwen3_vl.trainer import Qwen3VLTrainer
from dllm.pipelines.qwen3_vl.utils import create_qwen3_vl_collator
