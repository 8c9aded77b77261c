"""Whisper's encoder as it is published (Radford et al. 2022), frozen, and what a clip is to it."""

import numpy as np
import torch
from torch import Tensor
from transformers import WhisperConfig, WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from diffa.constants import SAMPLING_RATE
from dllm.pipelines.loading import check_folder, load_whole

SILENCE = -1.5  # every log-mel feature of a silent clip
STATES_PER_TOKEN = 4  # the semantic adapter's stride


class AudioEncoder(WhisperEncoder):
    """Whisper's encoder without dropout or gradients."""

    _keys_to_ignore_on_load_unexpected = [r"decoder\.", r"^proj_out\."]

    def train(self, mode: bool = True) -> "AudioEncoder":
        return super().train(False)

    @torch.no_grad()
    def forward(self, audio: Tensor) -> tuple[Tensor, ...]:
        """Its layers + 1 states [n, T, D_audio], the embedding first and the normed last, of features [n, M, 2 T]."""
        return super().forward(audio.to(self.dtype), output_hidden_states=True).hidden_states


def load_audio_encoder(folder: str, dtype: torch.dtype) -> tuple[AudioEncoder, WhisperFeatureExtractor]:
    """Encoder and feature extractor of a Whisper folder. Raises ValueError if it is incomplete or no Whisper."""
    model_type = check_folder(folder, "preprocessor_config.json").get("model_type")
    if model_type != WhisperConfig.model_type:
        raise ValueError(f"{folder} holds a {model_type} model; give the folder of a Whisper")
    config, extractor = WhisperConfig.from_pretrained(folder), WhisperFeatureExtractor.from_pretrained(folder)
    made, taken = (extractor.feature_size, extractor.nb_max_frames), (config.num_mel_bins, frames_of(config))
    if made != taken:
        made, taken = (" x ".join(map(str, shape)) for shape in (made, taken))
        problem = f"preprocessor_config.json makes {made} features, the model takes {taken}"
        raise ValueError(f"{folder}: {problem}; copy it again")
    encoder = load_whole(AudioEncoder, folder, config=config, dtype=dtype, key_mapping={r"^(model\.)?encoder\.": ""})
    return encoder.requires_grad_(False).eval(), extractor


def frames_of(config: WhisperConfig) -> int:
    """Frames of features that the encoder takes, no more and no fewer."""
    return 2 * config.max_source_positions


def num_states(num_frames):
    """States of the encoder that belong to a clip of so many frames, a number or a tensor."""
    return (num_frames + 1) // 2


class AudioPreprocessor:
    """Turns clips, 16 kHz and mono, into the encoder's features, and counts the tokens that they take in a prompt."""

    def __init__(self, extractor: WhisperFeatureExtractor, config):
        """`config` is the DiffaConfig of the model."""
        self.extractor, self.num_learnt_tokens = extractor, config.num_learnt_tokens
        self.max_samples = extractor.n_samples

    def num_frames(self, num_samples: int) -> int:
        """Frames of a clip's features, without what fills them up."""
        return -(-num_samples // self.extractor.hop_length)

    def num_tokens(self, num_samples: int) -> int:
        """Audio tokens of a clip. Raises ValueError if it is too short to be heard."""
        semantic = num_states(self.num_frames(num_samples)) // STATES_PER_TOKEN
        if semantic == 0:
            raise ValueError(f"{num_samples / SAMPLING_RATE:.3f} s of audio are too short to be heard; leave it out")
        return self.num_learnt_tokens + semantic

    def batch(self, clips: list[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Log-mel features [n, M, 2 T] of clips, each filled up with silence, and the frames [n] that are its own; of a
        silent one that no prompt asks for, if there are none.
        """
        clips = clips or [np.zeros(self.max_samples, np.float32)]
        made = [self.extractor(clip, sampling_rate=SAMPLING_RATE, return_tensors="pt") for clip in clips]
        frames = torch.tensor([self.num_frames(len(clip)) for clip in clips])
        return torch.cat([each.input_features for each in made]), frames
