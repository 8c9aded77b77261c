"""Records of questions about clips: read, checked before the first step, made into samples; LibriSpeech's folders."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from diffa.constants import AUDIO_TOKEN_INDEX
from diffa.data.audio import read_audio
from diffa.data.dataset import AudioCollator, AudioDataset
from diffa.data.records import read_records
from diffa.model.audio_encoder import AudioPreprocessor
from dllm.core.noise import ForwardProcess
from oracles.sounds import tone, write_wav

END = "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def listener(sounds):
    """(tokenizer, model, preprocessor)."""
    tokenizer, model, extractor = sounds.build(stage=1)
    return tokenizer, model, AudioPreprocessor(extractor, model.config)


def dataset(listener, path, **settings) -> AudioDataset:
    tokenizer, model, prepare = listener
    return AudioDataset(str(path), tokenizer, prepare, model.diffusion, 512, show_progress=False, **settings)


def test_a_sample_is_the_prompt_of_its_clip_and_the_answer(sounds, listener):
    tokenizer, model, prepare = listener
    data, (record, *_) = dataset(listener, sounds.train), json.loads(sounds.train.read_text())
    assert len(data) == 12
    sample = data[0]
    prompt, response = sample["prompt_ids"].tolist(), sample["response_ids"].tolist()
    assert prompt.count(AUDIO_TOKEN_INDEX) == 3 + 30 // 2 // 4  # .3 s are 30 frames
    assert tokenizer.decode(response[:-1]) == record["target"] and response[-1] == model.diffusion.stop_token_ids[0]
    text = tokenizer.decode([token for token in prompt if token >= 0])
    assert text.endswith(f"This is the audio: <audio>. Which tone?{END}")
    assert sample["audio"].shape == (40, 300) and sample["num_frames"] == 30 and sample["num_inputs"] == 1
    batch = AudioCollator(model.diffusion, ForwardProcess("pair", "linear", 1e-3, 0), 8)(
        [data[index] | {"position": index} for index in (0, 3)]
    )
    assert batch["audio"].shape == (2, 40, 300) and batch["num_frames"].tolist() == [30, 290]
    assert not (batch["labels"] == AUDIO_TOKEN_INDEX).any() and batch["num_inputs"] == 2
    assert data.lengths == [len(data[index]["prompt_ids"]) + 16 for index in range(12)]  # the canvas


def write_records(folder, *records) -> Path:
    """A JSON file whose records lack nothing but what they are given."""
    whole = {"audio_id": "a", "audio_filepath": "x.wav", "input": "Which tone?", "target": "low"}
    (folder / "data.json").write_text(json.dumps([whole | record for record in records]))
    return folder / "data.json"


BAD = {
    "no such file": ({"audio_filepath": "none.wav"}, r"record 'a': .*none.wav is not a file; mend its path"),
    "not audio": ({"audio_filepath": "data.json"}, r"data.json is no audio file|data.json holds no sound"),
    "duration": ({"duration": 2.0}, r"x.wav lasts 1.00 s, its record says 2; mend either"),
    "too long": ({"audio_filepath": "long.wav"}, r"long.wav lasts 3.2 s, and the model hears 3; split it"),
    "too short": ({"audio_filepath": "short.wav"}, r"0.030 s of audio are too short to be heard"),
    "text for audio": ({"audio_filepath": ["x.wav"]}, r"record 0 \(audio_id 'a'\): audio_filepath must be a text"),
    "no question": ({"input": " "}, r"record 0 \(audio_id 'a'\): input must be a text"),
    "no answer": ({"target": None}, r"target must be a text"),
    "no number": ({"duration": "1 s"}, r"duration must be seconds, not '1 s'"),
    "no room": ({"target": "low " * 200}, r"record 'a': .*raise gen_length|leaves no room"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_record_is_told_before_training(listener, tmp_path, name):
    for file, seconds in (("x.wav", 1.0), ("long.wav", 3.2), ("short.wav", 0.03)):
        write_wav(tmp_path / file, tone(seconds))
    record, message = BAD[name]
    with pytest.raises(ValueError, match=message) as error:
        dataset(listener, write_records(tmp_path, record))
    assert "\n" not in str(error.value)


def test_all_that_is_bad_is_counted(listener, tmp_path):
    path = write_records(tmp_path, *({"audio_filepath": f"{number}.wav"} for number in range(3)))
    with pytest.raises(ValueError, match=r"0.wav is not a file; mend its path \(3 of 3 clips cannot be used\)"):
        dataset(listener, path)
    with pytest.raises(ValueError, match="--train_dataset_path 'none.json' is not a file"):
        read_records("none.json")


def test_long_clips_are_cut_when_asked_for_and_told(listener, tmp_path, capsys):
    write_wav(tmp_path / "x.wav", tone(4.0))
    tokenizer, model, prepare = listener
    path = str(write_records(tmp_path, {"duration": 4.0}))
    data = AudioDataset(path, tokenizer, prepare, model.diffusion, 512, cut=True)
    assert "of 1 clips the first 3 s alone are heard, as asked for" in capsys.readouterr().err
    assert data[0]["num_frames"] == 300
    assert torch.equal(data[0]["audio"], prepare.batch([read_audio(tmp_path / "x.wav")[:48_000]])[0][0])


def test_a_clip_that_changed_is_told(listener, tmp_path):
    write_wav(tmp_path / "x.wav", tone(1.0))
    data = dataset(listener, write_records(tmp_path, {}))
    write_wav(tmp_path / "x.wav", tone(1.1))
    with pytest.raises(ValueError, match="x.wav changed since the run began; start it again"):
        data[0]


@pytest.fixture
def librispeech(monkeypatch):
    """Runs the converter."""
    spec = importlib.util.spec_from_file_location("convert", ROOT / "examples/diffa/convert_librispeech.py")
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["convert", *map(str, arguments)])
        program.main()

    return run


def chapter(folder: Path, *seconds: float) -> Path:
    """A chapter of utterances of so many seconds, as it is published."""
    place = folder / "LibriSpeech/train-clean-100/19/198"
    place.mkdir(parents=True)
    for number, each in enumerate(seconds):
        write_wav(place / "x.wav", tone(each)).rename(place / f"19-198-000{number}.flac")  # read by what it is
    words = (f"19-198-000{number} LOW TONE {'AGAIN ' * number}".strip() for number in range(len(seconds)))
    (place / "19-198.trans.txt").write_text("\n".join(words) + "\n")
    return place


def test_librispeech_becomes_training_data(tmp_path, librispeech, capsys, listener):
    chapter(tmp_path, 0.5, 1.25, 4.0)
    out = tmp_path / "data/train.json"
    arguments = ["--data_dir", tmp_path / "LibriSpeech", "--splits", "train-clean-100", "--out", out]
    librispeech(*arguments, "--max_seconds", 3)
    assert "2 clips, 0.00 h; 1 longer than 3 s left out" in capsys.readouterr().out
    records = json.loads(out.read_text())
    assert records[1] == {
        "audio_id": "19-198-0001",
        "audio_filepath": "../LibriSpeech/train-clean-100/19/198/19-198-0001.flac",
        "input": "Please transcribe the audio to text.",
        "target": "low tone again",
        "transcription": "LOW TONE AGAIN",
        "dataset": "LibriSpeech",
        "duration": 1.25,
    }
    assert len(dataset(listener, out)) == 2


def test_a_split_that_is_not_whole_is_named(tmp_path, librispeech):
    place = chapter(tmp_path, 0.5)
    arguments = ["--data_dir", tmp_path / "LibriSpeech", "--out", tmp_path / "x.json", "--splits"]
    with pytest.raises(ValueError, match="dev-clean holds no SPEAKER/CHAPTER"):
        librispeech(*arguments, "train-clean-100", "dev-clean")
    (place / "19-198-0000.flac").write_bytes(b"torn")
    with pytest.raises(ValueError, match=r"19-198-0000.flac .*(no audio file|no samples).*\(1 of 1 clips"):
        librispeech(*arguments, "train-clean-100")
    (place / "19-198-0000.flac").unlink()
    with pytest.raises(ValueError, match="'19-198-0000' has no clip beside it; unpack it again"):
        librispeech(*arguments, "train-clean-100")
    assert not (tmp_path / "x.json").exists()
