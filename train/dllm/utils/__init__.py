"""Helpers around tokenizers and model folders."""
