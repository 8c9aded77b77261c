"""Videos as frames: which of them are taken, told by the file's header, and their pixels. PyAV reads the files.

A frame is taken every 1 / fps seconds, the one that a player would show at that time; with more than `frames_upbound`
of them, so many from the first to the last frame, evenly spaced (as LLaVA does, by time instead of by number, so that
frames of unequal length are counted right).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

ROUNDING_S = 0.002  # containers round times to a millisecond
SLACK_S = 0.5  # by so much may the header promise more than there is: the last frame stands in


@dataclass(frozen=True)
class VideoFolder:
    """The videos below a folder, `fps` frames of each second, at most `frames_upbound` of each video (0: no bound)."""

    folder: str | Path
    fps: float = 1.0
    frames_upbound: int = 0

    def num_frames(self, name: str) -> int:
        """Frames that `frames` will give. Raises ValueError, naming the file, if its header cannot be read."""
        with _open(Path(self.folder) / name) as stream:
            return len(self._times(*_duration(stream)))

    def frames(self, name: str) -> list[Image.Image]:
        """The chosen frames, RGB, in their order. Raises ValueError, naming the file, if it is damaged."""
        path = Path(self.folder) / name
        with _open(path) as stream:
            duration, period = _duration(stream)
        with _open(path) as stream:
            return _shown(stream, self._times(duration, period), period)

    def _times(self, duration: float, period: float) -> np.ndarray:
        """Times of the chosen frames in seconds from the first frame."""
        step = max(1 / self.fps, period)
        times = np.arange(0, max(duration - period / 2, step / 2), step)
        if 0 < self.frames_upbound < len(times):
            times = np.linspace(0, duration - period, self.frames_upbound)
        return times


@contextmanager
def _open(path: Path):
    """The first video stream of a file; anything that goes wrong becomes a ValueError of one line naming the file."""
    try:
        import av
    except ImportError:
        raise ValueError(f'{path}: reading videos needs PyAV; pip install -e "train[video]"') from None
    if not path.is_file():
        raise ValueError(f"{path}: no such video file; check --video_folder and the record's video")
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ValueError("it has no pictures")
            yield container.streams.video[0]
    except (av.error.FFmpegError, ValueError) as error:
        raise ValueError(f"{path}: the video is empty or damaged ({error}); copy it again") from error


def _duration(stream) -> tuple[float, float]:
    """Seconds that a stream lasts and seconds between its frames.

    The header tells, in Matroska and WebM by a tag. Where it does not, the packets are read, but not decoded. The
    duration of the whole file would not do: its sound may be longer.
    """
    rate = stream.average_rate or stream.guessed_rate
    period = float(1 / rate) if rate else 0.0
    if stream.duration:
        return float(stream.duration * stream.time_base), period
    if tag := stream.metadata.get("DURATION"):
        hours, minutes, seconds = map(float, tag.split(":"))
        return 3600 * hours + 60 * minutes + seconds - float((stream.start_time or 0) * stream.time_base), period
    packets = [packet for packet in stream.container.demux(stream) if packet.pts is not None]
    if not packets:
        raise ValueError("it has no pictures")
    starts = [float(packet.pts * packet.time_base) for packet in packets]
    lasting = [max(float((packet.duration or 0) * packet.time_base), period) for packet in packets]
    return max(start + length for start, length in zip(starts, lasting, strict=True)) - min(starts), period


def _shown(stream, times: np.ndarray, period: float) -> list[Image.Image]:
    """The frames that are shown at these times. Raises ValueError if the pictures end before the last of them."""
    shown: list[Image.Image] = []
    frame, end = None, 0.0
    for start, frame, following in _timed(stream):
        end = start + max(float((frame.duration or 0) * frame.time_base), period)
        until = end + SLACK_S if following is None else following - ROUNDING_S
        while len(shown) < len(times) and times[len(shown)] < until:
            if frame.is_corrupt:
                raise ValueError(f"its picture at {start:.1f} s is incomplete")
            shown.append(frame.to_image())
        if len(shown) == len(times):
            return shown
    if frame is None:
        raise ValueError("it has no pictures")
    raise ValueError(f"its pictures end after {end:.1f} s, before {times[len(shown)]:.1f} s")


def _timed(stream) -> Iterator[tuple]:
    """(start of a frame in seconds, the frame, start of the following one or None) of a stream, in order of display."""
    first, previous = None, None
    for frame in stream.container.decode(stream):
        if frame.pts is None:
            continue
        first = frame.pts if first is None else first
        start = float((frame.pts - first) * frame.time_base)
        if previous is not None:
            yield *previous, start
        previous = start, frame
    if previous is not None:
        yield *previous, None
