"""lmms_eval's own tasks mmsu and mmau by the model diffa, on local data sets of their form, without a network."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from datasets import Dataset, Features, Value
from lmms_eval.models import get_model
from lmms_eval.tasks import TaskManager
from lmms_eval.tasks.mmsu.utils import mmsu_doc_to_text
from pyarrow.parquet import read_table

from diffa.data.audio import read_audio
from diffa.evaluation.files import read_records
from diffa.inference import Request, SpeechWriter

AUDIO = {"bytes": Value("binary"), "path": Value("string")}
CARD = "---\ndataset_info:\n  features:\n{}configs:\n- config_name: default\n  data_files:\n{}---\n"


def write_data_set(folder: Path, rows: list[dict], splits: tuple[str, ...]) -> None:
    """A folder as `load_dataset` reads one from the hub, its clips of the type Audio."""
    names = [name for name in rows[0] if name != "audio"]
    features = Features({name: Value("string") for name in names} | {"audio": AUDIO})
    for split in splits:
        Dataset.from_list(rows, features=features).to_parquet(folder / f"{split}.parquet")
    types = "".join(f"  - {{name: {name}, dtype: string}}\n" for name in names) + "  - {name: audio, dtype: audio}\n"
    files = "".join(f"  - {{split: {split}, path: {split}.parquet}}\n" for split in splits)
    (folder / "README.md").write_text(CARD.format(types, files))


@pytest.fixture
def data_sets(speech, tmp_path) -> Path:
    """A working folder with data sets of the names that the tasks ask the hub for."""
    questions = read_records(speech / "test_mmsu.jsonl")[:6]
    audio = [{"bytes": (speech / each["audio_path"]).read_bytes(), "path": "clip.wav"} for each in questions]
    texts = [{name: each[name] or "" for name in each if "choice" in name or name == "question"} for each in questions]
    groups = {"answer": "A", "category": "Perception", "sub_category": "Linguistics", "task_name": "count"}
    rows = [each | groups | {"audio": clip} for each, clip in zip(texts, audio, strict=True)]
    write_data_set(tmp_path / "ngqtrung/mmsu", rows, ("test",))
    rows = [
        {"question": each["question"], "choices": json.dumps(["one", "two", "three", "four"]), "answer": "one"}
        | {"id": each["question"], "task": "speech", "audio": clip}
        for each, clip in zip(texts, audio, strict=True)
    ]
    write_data_set(tmp_path / "lmms-lab-audio/mmau", rows, ("test_mini", "test"))
    return tmp_path


def test_the_shipped_tasks_run_end_to_end(checkpoint, data_sets):
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = (sys.executable, "-m", "lmms_eval", "--model", "diffa", "--model_args", f"pretrained={checkpoint}")
    command += ("--tasks", "mmsu,mmau", "--device", "cpu", "--batch_size", "4", "--output_path", "out", "--log_samples")
    done = subprocess.run(command, cwd=data_sets, env=environment, capture_output=True, text=True)
    assert list(data_sets.glob("out/*/*_results.json")), done.stdout[-2000:] + done.stderr[-3000:]
    [results] = data_sets.glob("out/*/*_results.json")
    scores = json.loads(results.read_text())["results"]
    assert 0 <= scores["mmsu"]["accuracy,none"] <= 100 and 0 <= scores["mmau_test_mini"]["accuracy,none"] <= 100
    assert "tokens per step over 18 answers" in done.stderr  # 6 questions of each of the three tasks
    [samples] = data_sets.glob("out/*/*_samples_mmsu.jsonl")
    answers = [json.loads(line)["filtered_resps"] for line in samples.read_text().splitlines()]
    writer, rows = SpeechWriter(str(checkpoint)), read_table(data_sets / "ngqtrung/mmsu/test.parquet").to_pylist()
    requests = [Request([read_audio(row["audio"]["bytes"])], mmsu_doc_to_text(row)) for row in rows]
    assert [str(answer) for answer in answers] == [response.text for response in writer.write(requests)]
    assert len(set(answers)) > 1


@pytest.mark.parametrize(
    "task, missing",
    [
        ("librispeech", "editdistance, more_itertools"),
        ("librispeech_test_clean", "editdistance, more_itertools"),
        ("voicebench", "immutabledict"),
    ],
)
def test_a_task_whose_packages_are_missing_is_refused_by_their_names(load, monkeypatch, task, missing):
    load()  # from now on tasks are checked
    there = {"zhconv", "langdetect", "nltk"}
    monkeypatch.setattr(
        "lmms_eval.models.simple.diffa.find_spec", lambda package: package if package in there else None
    )
    with pytest.raises(SystemExit, match=f"error: {task} needs {missing}: pip install -e"):
        TaskManager.load_task_or_group(None, ["mmsu", task])


@pytest.fixture
def load(checkpoint):
    def load(more: str = ""):
        arguments = f"pretrained={checkpoint}{more}"
        return get_model("diffa").create_from_arg_string(arguments, {"batch_size": "3", "device": "cpu"})

    return load


def requests_for(model, clips: list, gen_kwargs: dict) -> list:
    """One request per clip, which comes as `datasets` holds one that is not decoded."""
    model.task_dict = {"task": {"test": [{"audio": clip} for clip in clips]}}
    call = ("What is said?", gen_kwargs, lambda doc: [doc["audio"]])
    return [SimpleNamespace(args=(*call, number, "task", "test")) for number in range(len(clips))]


def heard(model, monkeypatch) -> list:
    """The clips of the requests that the model answers from now on."""
    found, write = [], model.writer.write_batch

    def spy(requests, arguments):
        found.extend(request.inputs for request in requests)
        return write(requests, arguments)

    monkeypatch.setattr(model.writer, "write_batch", spy)
    return found


def test_floors_exchange_the_clips_or_leave_them_out(load, speech, monkeypatch):
    files = sorted((speech / "audio/test").glob("*.wav"))
    clips = [{"bytes": file.read_bytes(), "path": None} for file in files[:2]]
    clips += [{"bytes": None, "path": str(file)} for file in files[2:]]
    samples = [read_audio(file) for file in files]
    for floor in ("", ",floor=shuffled_audio", ",floor=no_audio"):
        model = load(floor)
        found = heard(model, monkeypatch)
        model.generate_until(requests_for(model, clips, {"max_new_tokens": 4}))
        if "no_audio" in floor:
            assert found == [[]] * len(files)
            continue
        order = [[np.array_equal(clip, own) for own in samples].index(True) for [clip] in found]
        assert sorted(order) == list(range(len(files)))
        assert all((place == number) == (floor == "") for number, place in enumerate(order))


def test_a_canvas_is_the_checkpoints_unless_the_task_wants_less_or_the_user_says(load):
    model = load()
    task = {"max_new_tokens": 256, "do_sample": False, "temperature": 0.0, "top_p": 1.0, "num_beams": 1, "until": ["."]}
    expected = {"temperature": 0.0, "stop_strings": ["."]}
    for given, length in (({}, 16), ({"max_new_tokens": 8}, 8), ({"gen_length": 32}, 32)):
        (request,) = requests_for(model, [None], task | given)
        assert model.gen_kwargs(request) == expected | {"gen_length": length}


@pytest.mark.parametrize(
    "more, gen_kwargs, clip, message",
    [
        (",floor=silence", {}, {}, "unknown floor 'silence'; known: shuffled_audio, no_audio"),
        (",dtype=", {}, {}, "model_args dtype is empty"),
        (",temperature=1", {}, {}, "unknown model_args temperature: choose from pretrained, llm_path"),
        ("", {"do_sample": True}, {}, "leave do_sample and num_beams out"),
        ("", {}, {}, "document 0 of task has no audio file"),
        ("", {}, {"bytes": b"no sound"}, "document 0 of task is no audio file"),
    ],
)
def test_a_mistake_is_one_line(load, more, gen_kwargs, clip, message):
    with pytest.raises(SystemExit, match=f"error: .*{message}"):
        model = load(more)
        model.generate_until(requests_for(model, [clip], gen_kwargs))
