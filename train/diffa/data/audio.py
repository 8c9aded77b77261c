"""Sound files of any kind that FFmpeg knows (wav, flac, mp3, ogg, m4a), read by PyAV as 16 kHz mono."""

import io
import wave
from itertools import chain
from pathlib import Path

import av
import numpy as np

from diffa.constants import SAMPLING_RATE


def read_audio(source: str | Path | bytes, name: str | None = None, max_samples: int | None = None) -> np.ndarray:
    """Samples [samples] fp32 of a file, or of its bytes, at 16 kHz; channels are averaged.

    `name` is what errors call it; of a longer clip the first `max_samples` are read. Raises ValueError if there is no
    such file, or nothing in it that can be heard.
    """
    name = name or ("audio" if isinstance(source, bytes) else str(source))
    if not isinstance(source, bytes) and not Path(source).is_file():
        raise ValueError(f"{name} is not a file; mend its path")
    try:
        with av.open(io.BytesIO(source) if isinstance(source, bytes) else str(source)) as container:
            if not container.streams.audio:
                raise ValueError(f"{name} holds no sound; give an audio file")
            clip = _decode(container, max_samples)
    except (av.error.FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{name} is no audio file, or a damaged one ({reason}); copy it again") from error
    if clip.size == 0:
        raise ValueError(f"{name} holds no samples; leave it out")
    if not np.isfinite(clip).all():
        raise ValueError(f"{name} holds samples that are no numbers; write it again")
    return clip


def _decode(container: av.container.InputContainer, max_samples: int | None) -> np.ndarray:
    """The samples of the first stream of sound; channels are averaged here, as the resampler would make them louder."""
    resampler, parts, count = av.AudioResampler(format="fltp", rate=SAMPLING_RATE), [np.zeros(0, np.float32)], 0
    for decoded in chain(container.decode(audio=0), [None]):  # None flushes the resampler
        for frame in resampler.resample(decoded):
            parts.append(frame.to_ndarray().mean(axis=0, dtype=np.float32))  # [samples]
            count += frame.samples
        if max_samples is not None and count >= max_samples:
            break
    return np.concatenate(parts)[:max_samples]


def write_wav(file: str | io.BytesIO, samples: np.ndarray) -> None:
    """Samples within -1 and 1, at 16 kHz, as a file of 16 bits."""
    with wave.open(file, "wb") as out:
        out.setparams((1, 2, SAMPLING_RATE, 0, "NONE", "not compressed"))  # channels, bytes of a sample
        out.writeframes((samples * 32767).astype("<i2").tobytes())


def fit(clip: np.ndarray, max_samples: int, cut: bool, name: str = "audio") -> np.ndarray:
    """The clip if the model can hear all of it, or its beginning if it is to be cut. Raises ValueError otherwise."""
    if len(clip) > max_samples and not cut:
        heard = f"{len(clip) / SAMPLING_RATE:.1f} s, and the model hears {max_samples / SAMPLING_RATE:g}"
        raise ValueError(f"{name} lasts {heard}; split it, or have it cut (--cut_long_audio)")
    return clip[:max_samples]
