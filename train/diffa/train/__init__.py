"""Training of DiffaModelLM in two stages."""
