"""Synthetic speech: digits of two phonemes each, said by a voice over a background, all of it known.

A source and a filter (Fant 1960): pulses of a voice, or noise, whose spectrum the resonances of a phoneme shape.
"""

from dataclasses import dataclass

import numpy as np

from diffa.constants import SAMPLING_RATE as RATE

SECONDS = 3
SAMPLES = RATE * SECONDS
WINDOW = 4096  # samples in which a phoneme is shaped: the longest has 4000
FADE = 160  # samples over which a phoneme comes and goes

# Formants in Hz, and how loud each is. The two last phonemes are noise in a band instead: its centre and its width.
F1 = (280, 400, 660, 730, 570, 300, 490, 250)
F2 = (2250, 2000, 1720, 1090, 840, 870, 1350, 1200)
F3 = (2900, 2600, 2410, 2440, 2410, 2250, 1690, 2100)
FORMANTS = np.column_stack([F1, F2, F3])  # [voiced, 3]
LOUDNESS = np.array([1.0, 0.6, 0.35])
BANDS = [(2600, 500), (5200, 800)]
PHONEMES = len(FORMANTS) + len(BANDS)
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SPELLING = ((9, 4), (5, 7), (8, 5), (8, 0), (9, 3), (3, 1), (0, 9), (2, 8), (1, 6), (7, 2))
DIGITS = dict(zip(NAMES, SPELLING, strict=True))  # the phonemes of each
VOICES = {"low": ((85, 125), (0.92, 1.0)), "high": ((190, 260), (1.05, 1.15))}  # pitch in Hz, scale of the formants
BACKGROUNDS = ("none", "hiss", "hum")
BACKGROUND_LEVEL = (0.01, 0.03)  # of full scale


@dataclass(frozen=True)
class Clip:
    """What is heard: the digits in their order, who says them and over what; `spans` (phoneme, first sample, the one
    after its last); `samples` fp32 [SAMPLES] within -1 and 1.
    """

    digits: tuple[str, ...]
    voice: str
    background: str
    speed: float
    spans: tuple[tuple[int, int, int], ...]
    samples: np.ndarray


def make_clip(rng: np.random.Generator) -> Clip:
    """A clip of two to five digits, drawn from `rng` alone."""
    digits = tuple(np.array(NAMES)[rng.integers(len(DIGITS), size=rng.integers(2, 6))].tolist())
    voice, background = str(rng.choice(list(VOICES))), str(rng.choice(BACKGROUNDS))
    speed = rng.uniform(0.8, 1.2)
    phonemes = np.array([phoneme for digit in digits for phoneme in DIGITS[digit]])  # [n]
    lengths = (rng.uniform(0.12, 0.2, len(phonemes)) / speed * RATE).astype(int)  # [n]
    gaps = (rng.dirichlet(np.ones(len(digits) + 1)) * (SAMPLES - lengths.sum())).astype(int)  # before each digit
    starts = np.cumsum(lengths) - lengths + np.repeat(np.cumsum(gaps[:-1]), 2)  # [n]
    spans = tuple(zip(phonemes.tolist(), starts.tolist(), (starts + lengths).tolist(), strict=True))
    samples = _background(background, rng)
    for sound, (_, start, end) in zip(_sounds(phonemes, lengths, voice, rng), spans, strict=True):
        samples[start:end] += sound[: end - start]
    samples *= 0.5 * 10 ** (rng.uniform(-6, 0) / 20)
    return Clip(digits, voice, background, speed, spans, samples.clip(-1, 1).astype(np.float32))


def _sounds(phonemes: np.ndarray, lengths: np.ndarray, voice: str, rng: np.random.Generator) -> np.ndarray:
    """Each phoneme on its own, [n, WINDOW], as loud as the others."""
    pitches, scales = VOICES[voice]
    time = np.arange(WINDOW) / RATE  # [WINDOW]
    vibrato = 1 + 0.03 * np.sin(2 * np.pi * (5 * time + rng.random((len(phonemes), 1))))  # [n, WINDOW]
    turns = np.cumsum(rng.uniform(*pitches) * vibrato / RATE, axis=1)
    source = np.diff(np.floor(turns), axis=1, prepend=0)  # 1 wherever a turn of the vocal folds begins
    unvoiced = phonemes >= len(FORMANTS)
    source[unvoiced] = rng.standard_normal((unvoiced.sum(), WINDOW))
    shape = _responses(rng.uniform(*scales))[phonemes]  # [n, F]
    sounds = np.fft.irfft(np.fft.rfft(source) * shape, WINDOW)  # [n, WINDOW]
    position = np.arange(WINDOW)
    envelope = np.minimum(position, lengths[:, None] - 1 - position).clip(0, FADE) / FADE
    sounds *= envelope
    level = np.sqrt((sounds**2).sum(axis=1, keepdims=True) / envelope.sum(axis=1, keepdims=True))
    return 0.2 * sounds / level


def _responses(scale: float) -> np.ndarray:
    """The filter of every phoneme, [PHONEMES, F], with formants of 60 to 140 Hz width times `scale`."""
    frequency = np.fft.rfftfreq(WINDOW, 1 / RATE)  # [F]
    widths = np.array([60, 100, 140])
    distance = (frequency - scale * FORMANTS[..., None]) / widths[:, None]  # [voiced, 3, F]
    resonances = 1 / np.sqrt(1 + distance**2)
    voiced = LOUDNESS @ resonances  # [voiced, F]
    noisy = [np.exp(-(((frequency - scale * centre) / width) ** 2)) for centre, width in BANDS]
    return np.concatenate([voiced, noisy])


def _background(name: str, rng: np.random.Generator) -> np.ndarray:
    """What is heard all the time, [SAMPLES]."""
    level = rng.uniform(*BACKGROUND_LEVEL)
    if name == "hiss":
        return level * rng.standard_normal(SAMPLES)
    if name == "hum":
        time = np.arange(SAMPLES) / RATE
        return level * sum(np.sin(2 * np.pi * (50 * k * time + rng.random())) for k in (1, 2, 3))
    return 0.001 * rng.standard_normal(SAMPLES)
