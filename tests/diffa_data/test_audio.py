"""Reading sound: formats, rates, channels; what cannot be heard is one line."""

import struct
from fractions import Fraction

import av
import numpy as np
import pytest

from diffa.data.audio import fit, read_audio
from oracles.sounds import RATE, tone, write_wav


def write(file, clip, codec, rate, layout="stereo", container=None):
    """An encoded file whose channels have the clip, the second one at half the loudness."""
    with av.open(str(file), "w", format=container) as out:
        stream = out.add_stream(codec, rate=rate, layout=layout)
        planes = np.stack([clip, clip / 2][: stream.layout.nb_channels])
        resampler = av.AudioResampler(stream.format, layout, rate, frame_size=stream.frame_size)
        frame = av.AudioFrame.from_ndarray(planes, format="fltp", layout=layout)
        frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), 0
        for each in (*resampler.resample(frame), *resampler.resample(None)):
            out.mux(stream.encode(each))
        out.mux(stream.encode(None))
    return file


def at(rate):
    """A 440 Hz tone of a second."""
    return (0.4 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)).astype(np.float32)


FORMATS = {"wav": "pcm_s16le", "flac": "flac", "mp3": "libmp3lame", "ogg": "libvorbis", "m4a": "aac"}


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_every_format_gives_the_mean_of_the_channels_at_16_khz(tmp_path, kind, rate):
    clip = read_audio(write(tmp_path / f"x.{kind}", at(rate), FORMATS[kind], rate))
    assert clip.dtype == np.float32 and abs(len(clip) - RATE) < 3200  # coders pad
    middle = clip[4000:12_000]
    spectrum = np.abs(np.fft.rfft(middle))
    assert spectrum.argmax() == 440 * len(middle) // RATE
    assert np.abs(middle).max() == pytest.approx(0.3, abs=0.02)


def test_8_khz_and_bytes(tmp_path):
    file = write_wav(tmp_path / "x.wav", at(8000), 8000, channels=2)
    clip = read_audio(file)
    assert abs(len(clip) - RATE) < 100 and np.array_equal(clip, read_audio(file.read_bytes()))
    assert np.abs(clip[2000:14_000] - at(RATE)[2000:14_000]).max() < 0.01


def wav_header(rate: int, data: bytes = b"") -> bytes:
    head = struct.pack("<IHHIIHH", 16, 1, 1, rate, 2 * rate, 2, 16)
    return (
        b"RIFF" + struct.pack("<I", 36 + len(data)) + b"WAVEfmt " + head + b"data" + struct.pack("<I", len(data)) + data
    )


BAD = {
    "empty.wav": (b"", "no audio file, or a damaged one"),
    "text.wav": (b"hello, this is text", "no audio file, or a damaged one"),
    "lyrics.txt": (b"hello, this is text\n" * 20, "holds no sound|no audio file"),
    "nothing.wav": (wav_header(16_000), "holds no samples; leave it out"),
    "0hz.wav": (wav_header(0, bytes(2000)), "no audio file, or a damaged one"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_heard_is_named(tmp_path, name):
    content, message = BAD[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name}.*({message})"):
        read_audio(tmp_path / name)


def test_a_missing_or_torn_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="none.wav is not a file; mend its path"):
        read_audio(tmp_path / "none.wav")
    whole = write(tmp_path / "x.flac", tone(2.0), "flac", RATE, "mono").read_bytes()
    (tmp_path / "half.flac").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="half.flac is no audio file, or a damaged one"):
        read_audio(tmp_path / "half.flac")


def test_a_clip_that_is_too_long_is_cut_only_when_asked_for():
    clip = tone(3.5)
    with pytest.raises(ValueError, match=r"x lasts 3.5 s, and the model hears 3; split it, or have it cut"):
        fit(clip, 3 * RATE, False, "x")
    assert np.array_equal(fit(clip, 3 * RATE, True), clip[: 3 * RATE])
