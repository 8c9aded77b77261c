"""Projectors: from the resampler's width to the language model's."""
