"""Resamplers: from the encoder's patches to the visual tokens of the prompt."""
