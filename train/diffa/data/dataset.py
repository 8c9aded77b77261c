"""DIFFA's JSON files as training samples: answers to questions about clips."""

import sys

import torch

from diffa.constants import SAMPLING_RATE
from diffa.conversation import build_prompt
from diffa.data.audio import fit, read_audio
from diffa.data.records import read_records
from diffa.model.audio_encoder import AudioPreprocessor
from dllm.data.collator import ResponseCollator
from dllm.data.dataset import ConversationDataset
from dllm.data.inputs import check_inputs, usable

MAX_DIFFERENCE = 0.2  # seconds between what a record says that a clip lasts and what it does; coders pad


class AudioDataset(ConversationDataset):
    """`ConversationDataset` with `audio`, the features [M, 2 T] of a sample's clip, and `num_frames`, made when it is
    their turn.

    Before the first step the first process decodes every clip, on all its cores: it must be there and whole, last as
    long as its record says, and be no longer than the model can hear, unless `cut` has its beginning taken.
    """

    def __init__(
        self, data_path: str, tokenizer, preprocessor: AudioPreprocessor, *limits, cut: bool = False, **settings
    ):
        """`limits` and `settings` are the last arguments of `ConversationDataset`."""
        self.preprocessor, self.cut = preprocessor, cut
        found = read_records(data_path)
        clips = ((record["audio"], record["duration"]) for record in found)
        self.clips: dict[tuple, int | str] = check_inputs(self._num_samples, clips, "check clips", "clip")
        super().__init__(data_path, found, tokenizer, *limits, **settings)
        long = [path for (path, _), samples in self.clips.items() if samples > preprocessor.max_samples]
        if self.show_progress and long:
            heard = f"of {len(long)} clips the first {preprocessor.max_samples / SAMPLING_RATE:g} s alone are heard"
            print(f"{data_path}: {heard}, as asked for; one is {long[0]}", file=sys.stderr)

    def prompt(self, record: dict, history: list[dict]) -> tuple[list[int], list[tuple[str, int]], int]:
        samples = usable(self.clips, (record["audio"], record["duration"]), "clips")
        heard = min(samples, self.preprocessor.max_samples)
        ids = build_prompt(self.tokenizer, history[0]["value"], self.preprocessor.num_tokens(heard))
        return ids, [(record["audio"], samples)], 1

    def remedies(self, prompt: list[int], num_inputs: int) -> list[str]:
        return super().remedies(prompt, num_inputs) + ["split the clip"]

    def _num_samples(self, clip: tuple[str, float | None]) -> int:
        """Samples of a clip. Raises ValueError if it cannot be used."""
        path, duration = clip
        samples = read_audio(path)
        seconds = len(samples) / SAMPLING_RATE
        if duration is not None and abs(duration - seconds) > MAX_DIFFERENCE:
            raise ValueError(f"{path} lasts {seconds:.2f} s, its record says {duration:g}; mend either")
        self.preprocessor.num_tokens(len(fit(samples, self.preprocessor.max_samples, self.cut, path)))
        return len(samples)

    def __getitem__(self, index: int) -> dict:
        sample = self.sample(index)
        ((path, samples),) = sample.inputs
        clip = read_audio(path)
        if len(clip) != samples:
            raise ValueError(f"{self.data_path}: {path} changed since the run began; start it again")
        audio, (num_frames,) = self.preprocessor.batch([clip[: self.preprocessor.max_samples]])
        return self.as_item(sample) | {"audio": audio[0], "num_frames": num_frames}


class AudioCollator(ResponseCollator):
    """ResponseCollator with the batch's `audio` [n, M, 2 T] and `num_frames` [n]."""

    def __call__(self, samples: list[dict]) -> dict[str, torch.Tensor]:
        clips = {name: torch.stack([sample[name] for sample in samples]) for name in ("audio", "num_frames")}
        return super().__call__(samples) | clips
