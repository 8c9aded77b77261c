"""DIFFA (Zhou et al. 2025): audio in, text out; Whisper and two adapters before a masked-diffusion language model."""
