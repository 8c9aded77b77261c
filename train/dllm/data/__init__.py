"""Batches for masked-diffusion training."""
