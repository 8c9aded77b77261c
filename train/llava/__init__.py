"""LLaDA-V-Qwen: a vision language model that writes radiology reports by masked diffusion."""
