"""The vision-language model on its language models."""
