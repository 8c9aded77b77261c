"""dLLM: the masked-diffusion core (noise, loss, attention pattern, denoising) and the language models that use it."""
