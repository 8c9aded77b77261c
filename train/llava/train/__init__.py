"""Training of LlavaQwen3ModelLM in two stages."""
