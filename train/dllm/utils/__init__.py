"""Helpers around tokenizers."""
