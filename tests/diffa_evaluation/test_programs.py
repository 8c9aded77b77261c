"""The programs of examples/diffa end to end on a tiny untrained model."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from diffa.evaluation import asr
from diffa.evaluation.files import read_records
from dllm.inference.writer import Writer

EXAMPLES = Path(__file__).resolve().parents[2] / "examples/diffa"
SHORT = ("--steps", 4, "--block_length", 4, "--max_new_tokens", 4)


@pytest.fixture
def run(monkeypatch, checkpoint):
    """Runs a program in this process."""

    def run(program: str, *arguments) -> None:
        given = ["--model_path", checkpoint, *SHORT] if program.startswith("inference") else []
        monkeypatch.setattr(sys, "argv", [program, *map(str, [*given, *arguments])])
        runpy.run_path(str(EXAMPLES / program), run_name="__main__")

    return run


@pytest.fixture
def counted(monkeypatch) -> list[int]:
    """The sizes of the batches that are written from now on."""
    sizes, write = [], Writer.write_batch

    def spy(self, requests, arguments, on_step=None):
        sizes.append(len(requests))
        return write(self, requests, arguments, on_step)

    monkeypatch.setattr(Writer, "write_batch", spy)
    return sizes


def test_mmsu_is_answered_in_order_and_goes_on_where_it_was_stopped(run, counted, speech, tmp_path, capsys):
    questions, out = speech / "test_mmsu.jsonl", tmp_path / "new folder/results.jsonl"
    command = ("inference_stage2_mmsu.py", "--input_jsonl", questions, "--output_jsonl", out)
    run(*command, "--batch_size", 8)
    found = read_records(out)
    assert [{**record, "response": ""} for record in found] == [q | {"response": ""} for q in read_records(questions)]
    assert counted == 3 * [8, 8, 4]  # the answers and two floors
    floors = [read_records(out.with_name(f"results.{floor}.jsonl")) for floor in ("shuffled_audio", "no_audio")]
    assert all(floor != found for floor in floors) and floors[0] != floors[1]

    progress = out.with_name("results.progress.jsonl")
    lines = progress.read_text().splitlines(keepends=True)
    progress.write_text("".join(lines[:5]) + lines[5][:30])  # the process was killed in the sixth line
    counted.clear()
    run(*command, "--batch_size", 4, "--floors")
    assert counted == [4, 4, 4, 3] and read_records(out) == found  # one by one or in batches, the answers are the same

    run("mmsu/evaluate.py", out)
    printed = capsys.readouterr().out
    assert "Total count: 20\n" in printed and "shuffled_audio: 0." in printed and "no_audio: 0." in printed
    with pytest.raises(SystemExit, match="was written with gen_steps 4, not 2"):
        run(*command, "--steps", 2)


def test_what_has_no_audio_counts_as_wrong_and_is_told(run, speech, tmp_path, capsys):
    records = read_records(speech / "test_mmsu.jsonl")[:4]
    (tmp_path / "text.wav").write_text("no sound")
    del records[0]["audio_path"]
    records[3]["audio_path"] = str(speech / records[3]["audio_path"])
    records[1]["audio_path"] = str(tmp_path / "none.wav")
    records[2]["audio_path"] = str(tmp_path / "text.wav")
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    out = tmp_path / "results.jsonl"
    arguments = ("--input_jsonl", tmp_path / "questions.jsonl", "--output_jsonl", out, "--floors", "no_audio")
    run("inference_stage2_mmsu.py", *arguments)
    told = capsys.readouterr()
    assert f"{out}: 4 questions, 3 of them without an answer\n" in told.out
    assert f"question {records[1]['id']} counts as wrong: {tmp_path}/none.wav is not a file" in told.err
    for found in (read_records(out), read_records(out.with_name("results.no_audio.jsonl"))):
        assert [bool(record.get("error")) for record in found] == [True, True, True, False]
        assert [record["response"] for record in found[:3]] == ["", "", ""]
    run("mmsu/evaluate.py", out)
    told = capsys.readouterr()
    assert "Total count: 4\n" in told.out and "3 without response count as wrong" in told.err


def test_mmau_takes_both_spellings(run, mmau_file, tmp_path, capsys):
    arguments = ("--input_json_path", mmau_file, "--floors", "no_audio")
    run("inference_stage2_mmau.py", *arguments, "--output_json", tmp_path / "a.json")
    run("inference_stage2_mmau.py", *arguments, "--output_json_path", tmp_path / "b.json")
    found = read_records(tmp_path / "a.json")
    assert found == read_records(tmp_path / "b.json")
    assert all(isinstance(record["model_prediction"], str) and "error" not in record for record in found)
    capsys.readouterr()
    run("mmau/evaluate.py", tmp_path / "a.json")
    printed = capsys.readouterr().out
    run("mmau/evaluate.py", "--input", tmp_path / "a.json")
    assert capsys.readouterr().out == printed and "over 20 samples" in printed


def test_voicebench_reads_a_data_set_of_its_form(run, speech, tmp_path):
    from datasets import Dataset, Features, Value

    clips = sorted((speech / "audio/test").glob("*.wav"))[:2]
    features = Features({"prompt": Value("string"), "audio": {"bytes": Value("binary"), "path": Value("string")}})
    rows = [{"prompt": clip.name, "audio": {"bytes": clip.read_bytes(), "path": clip.name}} for clip in clips]
    folder = tmp_path / "voicebench"
    Dataset.from_list(rows, features=features).to_parquet(folder / "mmsu/history-00000-of-00001.parquet")
    (folder / "README.md").write_text(
        "---\ndataset_info:\n- config_name: mmsu\n  features:\n  - {name: prompt, dtype: string}\n"
        "  - {name: audio, dtype: audio}\nconfigs:\n- config_name: mmsu\n  data_files:\n"
        "  - {split: history, path: mmsu/history-*}\n---\n"
    )
    arguments = ("--dataset", folder, "--data", "mmsu", "--split", "history")
    run("inference_stage2_voicebench.py", *arguments, "--output_dir", tmp_path / "out", "--floors", "shuffled_audio")
    found = read_records(tmp_path / "out/myModel-mmsu-history.jsonl")
    assert [list(record) for record in found] == [["prompt", "response"]] * 2
    assert [record["prompt"] for record in found] == [clip.name for clip in clips]
    with pytest.raises(SystemExit, match="--data sd-qa --split usa: .*sd-qa"):
        run("inference_stage2_voicebench.py", "--dataset", folder, "--data", "sd-qa", "--split", "usa")


def test_the_script_answers_and_scores(checkpoint, speech, tmp_path):
    settings = {
        "MODEL_PATH": checkpoint,
        "INPUT_JSONL": speech / "test_mmsu.jsonl",
        "OUTPUT_JSONL": tmp_path / "a.jsonl",
    }
    variables = [
        f"{name}={value}" for name, value in (settings | {"PYTHON": sys.executable, "ANSWERS": "text"}).items()
    ]
    command = ["env", *variables, "bash", str(EXAMPLES / "run_mmsu_inference.sh"), "--floors", "shuffled_audio"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Overall Accuracy: " in done.stdout and "\nshuffled_audio: 0." in done.stdout


def test_wrong_words_are_counted():
    def wer(reference: str, hypothesis: str | None) -> float:
        return asr.word_error_rate([{"target": reference, "response": hypothesis}])

    assert wer("One, two three.", "one two three") == 0
    assert wer("one two three", "one four three") == pytest.approx(1 / 3)
    assert wer("one two three", "two three") == wer("one two three", "one two two three") == pytest.approx(1 / 3)
    assert wer("one two", None) == 1 and wer("one", "two three four") == 3
    pairs = [("one two three", "one two three"), ("one", "two")]
    records = [{"target": target, "response": response} for target, response in pairs]
    assert asr.word_error_rate(records) == 1 / 4  # over all words, not a mean over clips


def test_two_questions_of_one_id_and_a_single_clip_are_one_line(run, speech, tmp_path):
    line = (speech / "test_mmsu.jsonl").read_text().splitlines()[0]
    for text, message in ((f"{line}\n{line}\n", "two questions have the id count_0"), (line, "at least 2 records")):
        (tmp_path / "questions.jsonl").write_text(text)
        arguments = ("--input_jsonl", tmp_path / "questions.jsonl", "--output_jsonl", tmp_path / "out.jsonl")
        with pytest.raises(SystemExit, match=message):
            run("inference_stage2_mmsu.py", *arguments)
