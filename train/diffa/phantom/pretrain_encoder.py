r"""Teaches a tiny Whisper encoder with random weights to hear, before there is a language model to learn with it.

    torchrun --nproc_per_node 2 -m diffa.phantom.pretrain_encoder --whisper_model exp/towers/audio_encoder \
        --truth exp/speech/truth.json --out exp/encoder

The truth of synthetic speech says which phoneme sounds when: a linear layer names it in every frame, two others the
voice and the background of the clip from the mean over its frames. The layers are thrown away; `--out` is a folder for
`--whisper_model` of the stage scripts. A published Whisper has heard more than this and does not need it.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from diffa.data.audio import read_audio
from diffa.phantom.speech import BACKGROUNDS, PHONEMES, RATE, SAMPLES, VOICES
from dllm.pipelines.loading import check_folder
from dllm.program import argument_parser
from dllm.training.plain import run_plain, train_plain

FRAME = 320  # samples of a hidden state
FRAMES = SAMPLES // FRAME
SILENCE = PHONEMES


class PhonemeDataset(Dataset):
    """Features [mels, 2 T] of clips, the phoneme of every frame [T], numbers of voice and background."""

    def __init__(self, truth: str, extractor: WhisperFeatureExtractor):
        if not Path(truth).is_file():
            raise ValueError(f"--truth {truth}: no such file; make it with python -m diffa.phantom.generate")
        self.folder = Path(truth).parent
        self.clips = json.loads(Path(truth).read_text(encoding="utf-8"))["train"]
        self.extractor = extractor

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> dict:
        clip = self.clips[index]
        samples = read_audio(self.folder / clip["audio_filepath"])
        features = self.extractor(samples, sampling_rate=RATE, return_tensors="pt").input_features[0]
        numbers = {"voice": list(VOICES).index(clip["voice"]), "background": BACKGROUNDS.index(clip["background"])}
        return {"features": features, "phonemes": frame_labels(clip["spans"])} | numbers


def frame_labels(spans: list[tuple[int, int, int]]) -> np.ndarray:
    """The phoneme in the middle of every frame, [T]; SILENCE where none sounds."""
    middles = np.arange(FRAMES) * FRAME + FRAME // 2
    labels = np.full(FRAMES, SILENCE)
    for phoneme, start, end in spans:
        labels[(start <= middles) & (middles < end)] = phoneme
    return labels


class PhonemeClassifier(nn.Module):
    """An encoder with the three layers that name what it hears."""

    def __init__(self, encoder: WhisperEncoder):
        super().__init__()
        self.encoder = encoder
        width = encoder.config.d_model
        self.phoneme = nn.Linear(width, PHONEMES + 1)
        self.voice, self.background = nn.Linear(width, len(VOICES)), nn.Linear(width, len(BACKGROUNDS))

    def forward(self, features: Tensor, phonemes: Tensor, voice: Tensor, background: Tensor) -> dict[str, Tensor]:
        """The sum of the three cross-entropies; `wrong`, the share of the frames [B, T] that are named wrongly."""
        hidden = self.encoder(features).last_hidden_state  # [B, T, D]
        named, heard = self.phoneme(hidden), hidden.mean(dim=1)  # [B, T, PHONEMES + 1], [B, D]
        loss = F.cross_entropy(named.flatten(0, 1), phonemes.flatten())
        loss = loss + F.cross_entropy(self.voice(heard), voice) + F.cross_entropy(self.background(heard), background)
        return {"loss": loss, "wrong": (named.argmax(dim=-1) != phonemes).float().mean()}


def pretrain(args: argparse.Namespace) -> str:
    """Trains, writes `--out`, and returns what to print."""
    torch.manual_seed(args.seed)
    check_folder(args.whisper_model, "preprocessor_config.json")
    extractor = WhisperFeatureExtractor.from_pretrained(args.whisper_model)
    encoder = WhisperEncoder.from_pretrained(args.whisper_model)
    model, data = PhonemeClassifier(encoder), PhonemeDataset(args.truth, extractor)

    def save() -> None:
        encoder.save_pretrained(args.out)
        extractor.save_pretrained(args.out)

    course = train_plain(model, data, args.out, args.epochs, args.learning_rate, args.batch_size, args.seed, save)
    return f"{args.out}: {len(data):,} clips{course}"


def main() -> None:
    """The command line."""
    parser = argument_parser(__doc__)
    parser.add_argument("--truth", required=True, help="truth.json of diffa.phantom.generate")
    parser.add_argument("--whisper_model", required=True, help="folder of an encoder for clips of 3 s to start from")
    parser.add_argument("--out", required=True, help="folder to write")
    parser.add_argument("--epochs", type=float, default=1, help="passes over the data")
    parser.add_argument("--batch_size", type=int, default=16, help="clips of a step and process")
    parser.add_argument("--learning_rate", type=float, default=2e-3, help="the highest")
    parser.add_argument("--seed", type=int, default=0, help="of order and new weights")
    args = parser.parse_args()
    run_plain("pretrain_encoder", lambda: pretrain(args))


if __name__ == "__main__":
    main()
