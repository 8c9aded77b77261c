"""LLaDA (Nie et al. 2025): trained as a masked-diffusion language model from the start."""

from dllm.pipelines.llada.loading import load_llada
