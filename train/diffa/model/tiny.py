"""A tiny Whisper encoder with random weights, for the quickstart and the tests."""

from transformers import WhisperConfig, WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder


def save_audio_encoder(
    folder: str, hidden_size: int = 96, layers: int = 4, num_mel_bins: int = 40, seconds: int = 3
) -> None:
    """Writes a random folder for clips of at most so many whole `seconds`, with heads of 32."""
    config = WhisperConfig(
        d_model=hidden_size,
        encoder_layers=layers,
        encoder_attention_heads=max(hidden_size // 32, 1),
        encoder_ffn_dim=3 * hidden_size,
        num_mel_bins=num_mel_bins,
        max_source_positions=50 * seconds,
        init_std=0.1,  # with the usual 0.02 the sound drowns in the positions
    )
    WhisperEncoder(config).save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=num_mel_bins, chunk_length=seconds).save_pretrained(folder)
