"""Videos: the frames that the header promises are the frames that are read, and damaged files are named."""

import io
import json
import subprocess
import sys
from fractions import Fraction

import av
import numpy as np
import pytest
import torch

from llava.constants import IMAGE_TOKEN_INDEX
from llava.data.dataset import ReportDataset
from llava.data.video import VideoFolder
from llava.inference import ReportWriter, Request
from oracles.tiny import build_trainer, turns

RATE, FRAMES = 10, 45  # frames a second and frames of the videos below; frame i is grey 5 i


class Pipe(io.RawIOBase):
    """A file that cannot be gone back in, so that a writer leaves out of its header what it knows only at the end."""

    def __init__(self, path):
        self.file = open(path, "wb")

    def writable(self):
        return True

    def write(self, content):
        return self.file.write(content)

    def close(self):
        self.file.close()
        super().close()


def write_video(target, codec, frames=FRAMES, starts=None, sound_s=0, rate=RATE, **options):
    """Writes grey frames, `starts` in tenths of a second if they are not evenly spaced, and silence of `sound_s`."""
    size, time_base = 64, 1 / Fraction(rate)
    with av.open(target, "w", **options) as container:
        stream = container.add_stream(codec, rate=rate, options={"lag-in-frames": "16", "auto-alt-ref": "1"})
        stream.width = stream.height = size
        stream.pix_fmt, stream.time_base = "yuv420p", time_base
        sound = container.add_stream("aac", rate=8000) if sound_s else None
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(np.full((size, size, 3), 5 * number, np.uint8), format="rgb24")
            frame.pts, frame.time_base = starts[number] if starts else number, time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        for start in range(0, sound_s * 8000, 1024):
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            silence.sample_rate, silence.pts = 8000, start
            container.mux(sound.encode(silence))
        if sound:
            container.mux(sound.encode())


KINDS = {
    "h264.mp4": {"codec": "libx264"},  # with frames that are stored before those that they are shown after
    "mpeg4.mp4": {"codec": "mpeg4"},
    "mpeg4.avi": {"codec": "mpeg4"},
    "sound.mp4": {"codec": "libx264", "sound_s": 9},
    "vp8.webm": {"codec": "libvpx"},  # with frames that are never shown
    "vp9.webm": {"codec": "libvpx-vp9"},
    "h264.mkv": {"codec": "libx264"},
    "sound.mkv": {"codec": "libx264", "sound_s": 9},
    "streamed.mkv": {"codec": "libx264", "format": "matroska"},
    "streamed.webm": {"codec": "libvpx", "format": "webm"},
    "late.ts": {"codec": "libx264"},  # whose first frame is not at 0 s
    "late.mkv": {"codec": "libx264", "starts": range(30, 75)},
    "streamed_late.mkv": {"codec": "libx264", "starts": range(30, 75), "format": "matroska"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for name, settings in KINDS.items():
        target = Pipe(folder / name) if name.startswith("streamed") else str(folder / name)
        write_video(target, **settings)
        if isinstance(target, Pipe):
            target.close()
    return folder


def numbers(frames):
    """Which frames these are, told by their grey."""
    return [round(np.asarray(frame).mean() / 5) for frame in frames]


CHOICES = [
    ((1, 0), [0, 10, 20, 30, 40]),
    ((2, 0), [0, 5, 10, 15, 20, 25, 30, 35, 40]),
    ((0.1, 0), [0]),
    ((10, 0), list(range(45))),
    ((60, 0), list(range(45))),  # no frame twice
    ((1, 5), [0, 10, 20, 30, 40]),
    ((1, 4), [0, 14, 29, 44]),
    ((10, 3), [0, 22, 44]),
    ((1, 1), [0]),
]


@pytest.mark.parametrize("name", KINDS)
def test_frames_are_those_shown_at_even_times(folder, name):
    for (fps, bound), expected in CHOICES:
        videos = VideoFolder(folder, fps, bound)
        frames = videos.frames(name)
        assert len(frames) == videos.num_frames(name) == len(expected)
        assert all(frame.mode == "RGB" and frame.size == (64, 64) for frame in frames)
        assert np.abs(np.subtract(numbers(frames), expected)).max() <= 1  # coding changes the grey a little


def test_the_headers_differ_in_what_they_tell(folder):
    """Or the test above would not try all ways of counting."""
    told = {}
    for name in KINDS:
        with av.open(str(folder / name)) as container:
            stream = container.streams.video[0]
            told[name] = (stream.frames > 0, stream.duration is not None, "DURATION" in stream.metadata)
    assert told["h264.mp4"] == (True, True, False)
    assert told["h264.mkv"] == told["vp8.webm"] == (False, False, True)
    assert told["streamed.mkv"] == told["streamed.webm"] == (False, False, False)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_times_that_a_container_rounds_are_told_right(tmp_path, suffix):
    write_video(str(tmp_path / f"a.{suffix}"), "libx264", 30, rate=Fraction(30000, 1001))
    assert numbers(VideoFolder(tmp_path, 60).frames(f"a.{suffix}")) == list(range(30))
    assert numbers(VideoFolder(tmp_path, 1).frames(f"a.{suffix}")) == [0]  # it lasts 1.001 s


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_frames_of_unequal_length_are_chosen_by_time(tmp_path, suffix):
    starts = [0, 2, 4, 5, 25, 26, 27, 44]  # in tenths of a second; frame 3 stands for two seconds
    write_video(str(tmp_path / f"a.{suffix}"), "mpeg4", len(starts), starts)
    videos = VideoFolder(tmp_path, 1)
    frames = videos.frames(f"a.{suffix}")
    assert numbers(frames) == [0, 3, 3, 6, 6] and videos.num_frames(f"a.{suffix}") == 5


def test_counts_and_frames_agree_for_any_length(tmp_path):
    for length in (1, 2, 9, 10, 11, 30):
        write_video(str(tmp_path / f"{length}.mp4"), "libx264", length)
        for fps in (0.3, 1, 2.5, 3, 7):
            for bound in (0, 2, 5):
                videos = VideoFolder(tmp_path, fps, bound)
                assert len(videos.frames(f"{length}.mp4")) == videos.num_frames(f"{length}.mp4") >= 1
        assert VideoFolder(tmp_path, 1).num_frames(f"{length}.mp4") == -(-length // 10)


def missing(path):
    pass


def empty(path):
    path.write_bytes(b"")


def text(path):
    path.write_text("not a video")


def without_header(path):
    write_video(str(path), "libx264")
    path.write_bytes(path.read_bytes()[:2000])  # MP4 has its header at the end


def sound_alone(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 8192), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 8000
        container.mux(stream.encode(silence))
        container.mux(stream.encode())


BROKEN = [
    (missing, "no such video file; check --video_folder"),
    (empty, "the video is empty or damaged"),
    (text, "the video is empty or damaged"),
    (without_header, "the video is empty or damaged"),
    (sound_alone, "it has no pictures"),
]


@pytest.mark.parametrize("make, problem", BROKEN)
def test_a_file_whose_header_is_broken_is_one_line_that_names_it(tmp_path, make, problem):
    make(tmp_path / "a.mp4")
    for read in (VideoFolder(tmp_path).num_frames, VideoFolder(tmp_path).frames):
        with pytest.raises(ValueError) as error:
            read("a.mp4")
        message = str(error.value)
        assert message.startswith(f"{tmp_path}/a.mp4: ") and problem in message and "\n" not in message


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_video_that_ends_before_its_header_says_is_named_when_it_is_read(tmp_path, name):
    path = tmp_path / name
    header_first = {"options": {"movflags": "faststart"}} if name == "a.mp4" else {}
    write_video(str(path), "libx264", **header_first)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    videos = VideoFolder(tmp_path)
    with pytest.raises(ValueError, match=rf"{name}: the video is empty or damaged \(.*\); copy it again") as error:
        assert videos.num_frames(name) == 5
        videos.frames(name)
    assert "\n" not in str(error.value)


def test_without_pyav_the_extra_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ValueError, match=r'h264.mp4: reading videos needs PyAV; pip install -e "train\[video\]"'):
        VideoFolder(folder).num_frames("h264.mp4")


def test_pyav_is_imported_only_for_videos():
    code = "import sys, llava.train.train, llava.inference; sys.exit('av' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def record(name, id="study 1", **more):
    return {"id": id, "video": name, "conversations": turns("<image>\nWhat moves?", "The diaphragm.")} | more


@pytest.fixture(scope="module")
def parts(world):
    return world.build(image_aspect_ratio="anyres", image_grid_pinpoints="(1x1),...,(2x2)")


@pytest.fixture
def dataset(world, parts, folder, tmp_path):
    def make(*records, videos=None, max_length=1024):
        path = tmp_path / "data.json"
        path.write_text(json.dumps(records))
        tokenizer, model, processor = parts
        settings = (tokenizer, processor, model.config, 4, max_length, False)
        return ReportDataset(str(path), str(world.images), *settings, videos=videos or VideoFolder(folder))

    return make


def test_a_sample_has_a_tile_for_every_frame(dataset, folder):
    talk = turns("First <image>?", "Yes.", "Then <image>?", "No.")
    one, first, both = dataset(record("vp8.webm"), record(["h264.mp4", "vp8.webm"], conversations=talk))
    assert [len(video) for sample in (one, first, both) for video in sample["images"]] == [5, 5, 5, 5]
    assert [(sample["prompt_ids"] == IMAGE_TOKEN_INDEX).sum() for sample in (one, first, both)] == [20, 20, 40]
    assert one["images"][0].shape == (5, 3, 32, 32)
    greys = (one["images"][0].mean((1, 2, 3)) + 1) * 127.5 / 5
    torch.testing.assert_close(greys, torch.tensor([0.0, 10, 20, 30, 40]), rtol=0, atol=1.0)
    assert torch.equal(both["images"][1], one["images"][0])


def test_frames_of_inference_are_those_of_training(dataset, parts, folder, tmp_path):
    for part in parts:
        part.save_pretrained(tmp_path / "model")
    writer = ReportWriter(str(tmp_path / "model"))
    (sample,) = dataset(record("h264.mkv"))
    request = Request([VideoFolder(folder).frames("h264.mkv")], "<image>\nWhat moves?")
    input_ids, _, pixels = writer.inputs([request])
    assert input_ids[0].tolist() == sample["prompt_ids"].tolist()
    assert torch.equal(pixels, sample["images"][0])
    assert len(writer.write([request], gen_length=16)) == 1


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"video": "none.mp4"}, "record 'study 1': .*none.mp4: no such video file"),
        ({"video": 5}, "video must be a path or a list of paths"),
        ({"video": ["h264.mp4", "vp8.webm"]}, "has 2 videos for 1 <image> marks"),
        ({"image": "a.png"}, "has images and videos, whose order is not known; split it into two records"),
    ],
)
def test_a_record_that_cannot_be_read_is_named(dataset, changed, message):
    with pytest.raises(ValueError, match=message) as error:
        dataset(record("h264.mp4") | changed)
    assert "data.json, record " in str(error.value) and "\n" not in str(error.value)


def test_frames_that_leave_no_room_are_named_with_the_remedy(dataset, folder):
    (length,) = dataset(record("h264.mp4")).lengths
    message = "record 'study 1': .*raise it or .*fewer than its 5 tiles .20 tokens; anyres_max_N, --frames_upbound"
    with pytest.raises(ValueError, match=message):
        dataset(record("h264.mp4"), max_length=length - 1)
    (shorter,) = dataset(record("h264.mp4"), videos=VideoFolder(folder, 1, 3), max_length=length - 1).lengths
    assert shorter == length - 8


def test_a_run_on_videos(world, folder, tmp_path):
    data = tmp_path / "data.json"
    films = json.loads(world.train.read_text())[:2]
    data.write_text(json.dumps([record("h264.mp4"), record("vp8.webm", "study 2"), *films]))
    settings = {"data_path": data, "max_steps": 1, "frames_upbound": 3}
    with pytest.raises(ValueError, match="record 'study 1': it has the video h264.mp4; give --video_folder"):
        build_trainer(world.arguments(tmp_path, **settings))
    trainer = build_trainer(world.arguments(tmp_path, video_folder=folder, video_fps=2, **settings))
    assert trainer.train_dataset.dataset.videos == VideoFolder(str(folder), 2.0, 3)
    seen = []
    trainer.model.model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    trainer.train()
    assert seen == [8]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"video_folder": "none"}, "--video_folder 'none' is not a folder"),
        ({"video_fps": 0}, "--video_fps 0.0 must be above 0"),
        ({"frames_upbound": -1}, "--frames_upbound -1 at least 0"),
    ],
)
def test_a_mistake_on_the_command_line_is_named(world, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        build_trainer(world.arguments(tmp_path / "out", **changes))
