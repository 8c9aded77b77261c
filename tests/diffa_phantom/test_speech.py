"""Synthetic speech: the same for the same seed, and what its truth says is what is heard."""

import json

import numpy as np
import pytest
from transformers import WhisperFeatureExtractor

from diffa.data.audio import read_audio
from diffa.evaluation import mmsu
from diffa.evaluation.files import read_records
from diffa.phantom import generate
from diffa.phantom.pretrain_encoder import FRAMES, SILENCE, PhonemeDataset
from diffa.phantom.questions import TASKS
from diffa.phantom.speech import BACKGROUNDS, DIGITS, FORMANTS, RATE, SAMPLES, VOICES, make_clip


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    folder = tmp_path_factory.mktemp("speech")
    generate.write_release(folder, {"train": 40, "test": 30}, seed=3)
    return folder


def contents(folder) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_clip_depends_on_seed_split_and_number_alone(release, tmp_path):
    generate.write_release(tmp_path / "again", {"train": 40, "test": 30}, seed=3)
    assert contents(tmp_path / "again") == contents(release)
    generate.write_release(tmp_path / "fewer", {"train": 2, "test": 3}, seed=3)
    generate.write_release(tmp_path / "other", {"train": 2, "test": 3}, seed=4)
    assert contents(release)["audio/train/000000.wav"] != contents(release)["audio/test/000000.wav"]
    clips = [name for name in contents(tmp_path / "fewer") if name.endswith(".wav")]
    assert len(clips) == 5
    for name in clips:
        assert contents(tmp_path / "fewer")[name] == contents(release)[name] != contents(tmp_path / "other")[name]


def test_a_word_has_its_phonemes_and_a_phoneme_its_formants():
    assert (DIGITS["zero"], DIGITS["five"], DIGITS["nine"]) == ((9, 4), (3, 1), (7, 2))
    assert FORMANTS[[0, 3, 7]].tolist() == [[280, 2250, 2900], [730, 1090, 2440], [250, 1200, 2100]]


def test_the_truth_says_where_sound_is():
    for seed in range(20):
        clip = make_clip(np.random.default_rng(seed))
        assert clip.samples.shape == (SAMPLES,) and np.abs(clip.samples).max() <= 1
        assert [phoneme for phoneme, *_ in clip.spans] == [p for digit in clip.digits for p in DIGITS[digit]]
        starts, ends = (np.array([span[index] for span in clip.spans]) for index in (1, 2))
        assert (starts[1:] >= ends[:-1]).all() and starts[0] >= 0 and ends[-1] <= SAMPLES
        sounds = np.concatenate([np.arange(start, end) for _, start, end in clip.spans])
        rest = np.delete(clip.samples, sounds)
        assert (clip.samples[sounds] ** 2).mean() > 10 * (rest**2).mean()


def spectrum(samples: np.ndarray) -> np.ndarray:
    """Power in each Hz up to 500."""
    power = np.abs(np.fft.rfft(samples * np.hanning(len(samples)), RATE)) ** 2
    return power[:500]


def test_voice_and_background_are_heard():
    pitches, rests = {name: [] for name in VOICES}, {name: [] for name in BACKGROUNDS}
    for seed in range(60):
        clip = make_clip(np.random.default_rng(seed))
        _, start, end = next(span for span in clip.spans if span[0] < 8)
        sound = np.correlate(clip.samples[start:end], clip.samples[start:end], "full")[end - start - 1 :]
        pitches[clip.voice].append(RATE / (50 + sound[50:200].argmax()))  # of 80 to 320 Hz
        ends = [0, *(end for *_, end in clip.spans)]
        gap = max(
            zip(ends, [*(start for _, start, _ in clip.spans), SAMPLES], strict=True), key=lambda gap: gap[1] - gap[0]
        )
        rests[clip.background].append(spectrum(clip.samples[slice(*gap)]))
    assert 85 <= np.median(pitches["low"]) <= 125 and 190 <= np.median(pitches["high"]) <= 260
    for power in rests["hum"]:
        assert power[40:170].sum() > 5 * power[250:380].sum()
    loud = {name: np.median([power[250:380].sum() for power in found]) for name, found in rests.items()}
    assert loud["hiss"] > 30 * loud["none"]


def test_questions_have_the_form_of_mmsu_and_their_answers_are_true(release):
    questions = read_records(release / "test_mmsu.jsonl")
    truths = json.loads((release / "truth.json").read_text())["test"]
    assert len(questions) == len(TASKS) * len(truths) and len({each["id"] for each in questions}) == len(questions)
    for number, truth in enumerate(truths):
        asked = {each["task_name"]: each for each in questions[number * len(TASKS) : (number + 1) * len(TASKS)]}
        answers = {task: question["answer_gt"] for task, question in asked.items()}
        assert answers == {
            "count": list(DIGITS)[len(truth["digits"])],
            "first": truth["digits"][0],
            "largest": list(DIGITS)[max(map(list(DIGITS).index, truth["digits"]))],
            "voice": truth["voice"],
            "background": truth["background"],
        }
        for question in asked.values():
            options = list(mmsu.options(question).values())
            assert len(set(options)) == len(options) and question["answer_gt"] in options
            assert question["audio_path"] == truth["audio_filepath"]
    for task in ("count", "first", "largest"):
        asked = [each for each in questions if each["task_name"] == task]
        places = [list(mmsu.options(each).values()).index(each["answer_gt"]) for each in asked]
        assert set(places) == {0, 1, 2, 3}  # the right one is anywhere


def test_records_of_the_stages_are_the_seeds(release):
    fields = ["audio_id", "audio_filepath", "input", "target", "transcription", "dataset", "duration"]
    stages = [read_records(release / name) for name in ("stage1.json", "stage2.json", "test.json")]
    assert [len(stage) for stage in stages] == [40, 40 * generate.TRAINING_TASKS, 30]
    for stage in stages:
        assert all(list(record) == fields for record in stage)
        assert len({record["audio_id"] for record in stage}) == len(stage)
    assert all(record["target"] == record["transcription"] for record in stages[0])
    assert len({record["audio_id"].split("_")[0] for record in stages[1]}) == len(TASKS) + 1


def test_frames_are_labelled_with_what_sounds_in_them(release):
    data = PhonemeDataset(str(release / "truth.json"), WhisperFeatureExtractor(feature_size=40, chunk_length=3))
    truth = json.loads((release / "truth.json").read_text())["train"]
    sample = data[7]
    assert sample["features"].shape == (40, 2 * FRAMES) and sample["phonemes"].shape == (FRAMES,)
    labels, last = sample["phonemes"].tolist(), None
    sounding = [label for label in labels if label != last and (last := label) != SILENCE]
    expected = [phoneme for phoneme, *_ in truth[7]["spans"]]
    assert sounding == [
        phoneme for phoneme, before in zip(expected, [None, *expected], strict=False) if phoneme != before
    ]
    loud = (read_audio(release / truth[7]["audio_filepath"]).reshape(FRAMES, -1) ** 2).mean(axis=1)
    assert loud[np.array(labels) != SILENCE].mean() > 5 * loud[np.array(labels) == SILENCE].mean()


@pytest.mark.parametrize(
    "more, message", [(["--test", "1"], "--test 1: give at least 2"), (["--seed", "-1"], "--seed -1")]
)
def test_a_mistake_is_one_line(release, monkeypatch, more, message):
    monkeypatch.setattr("sys.argv", ["generate", "--out", "unused", *more])
    with pytest.raises(ValueError, match=message):
        generate.main()
    with pytest.raises(ValueError, match="truth.json is there already"):
        generate.write_release(release, {"train": 2, "test": 2}, seed=0)
