"""The quickstart on synthetic speech, all of it on a few clips and steps; its programs run in this process."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
TORCHRUN = '#!/usr/bin/env bash\nprintf "%s\\n" "$@" >"$(dirname "$0")/arguments"\n'


@pytest.fixture
def quickstart(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(SCRIPTS), *sys.path])  # no caches are dropped: others live on what is found
    return __import__("quickstart_speech")


@pytest.fixture
def titles(quickstart, tmp_path, monkeypatch) -> list[str]:
    """The steps that are run, each as one process; the stage scripts are real and their torchrun is played here."""
    found, tools = [], tmp_path / "tools"
    tools.mkdir()
    (tools / "torchrun").write_text(TORCHRUN)
    (tools / "torchrun").chmod(0o755)
    monkeypatch.chdir(quickstart.ROOT)

    def run(title: str, *command, env: dict | None = None, done: Path | None = None) -> None:
        if done is not None and done.is_file():
            return
        found.append(title)
        command = [str(part) for part in command]
        if command[0] == "bash":
            variables = os.environ | {name: str(value) for name, value in env.items()}
            path = os.pathsep.join([str(tools), os.environ["PATH"]])
            subprocess.run(command, env=variables | {"PATH": path}, check=True, capture_output=True)
            arguments = (tools / "arguments").read_text().split("\n")[:-1]
            assert arguments[arguments.index("--nproc_per_node") + 1] == "2"
            program = next(index for index, part in enumerate(arguments) if part.endswith(".py"))
            start(arguments[program:])
        else:
            start(command[len(quickstart.LAUNCH) :] if "--standalone" in command else command[1:])

    def start(command: list[str]) -> None:
        module = command.pop(0) == "-m" if command[0] == "-m" else False
        monkeypatch.setattr(sys, "argv", command)
        (runpy.run_module if module else runpy.run_path)(command[0], run_name="__main__")

    monkeypatch.setattr(quickstart, "run", run)
    return found


def test_the_whole_path_on_a_few_clips_and_what_is_finished_is_not_repeated(quickstart, titles, tmp_path, monkeypatch):
    monkeypatch.setattr(quickstart, "SETTINGS", quickstart.SETTINGS | {"REPORT_TO": "none", "WARMUP": "1"})
    out = tmp_path / "new/out"
    given = ("--train", 32, "--test", 3, "--encoder_epochs", 1, "--stage1_epochs", 1, "--stage2_epochs", 0.5)
    command = ["quickstart_speech.py", "--out", out, *given]

    def start() -> dict:
        monkeypatch.setattr(sys, "argv", [str(part) for part in command])
        quickstart.main()
        return json.loads((out / "summary.json").read_text())

    summary = start()
    assert set(summary["wer"]) == set(summary["wer_after_stage_1"]) == {"model", "shuffled_audio"}
    for scores in (summary["accuracy"], summary["acoustic_accuracy"], *summary["accuracy_by_task"].values()):
        assert set(scores) == {"model", "shuffled_audio", "without_acoustic_adapter"}
        assert all(0 <= score <= 1 for score in scores.values())
    assert all(0 < score for score in (*summary["wer"].values(), *summary["wer_after_stage_1"].values()))
    assert len((out / "results/questions.jsonl").read_text().splitlines()) == 15
    steps = json.loads((out / "stage2/trainer_state.json").read_text())["global_step"]
    assert steps == 3  # half of 32 clips times three tasks, in batches of 16

    titles.clear()
    assert start() == summary
    again = [f"answers: {name}" for name in ("stage1", "stage2", "questions", "without_acoustic_adapter")]
    assert [title.partition(" -> ")[0] for title in titles] == again
    command[-1] = 1
    with pytest.raises(ValueError, match="holds a run with other settings"):
        start()


def test_a_script_without_a_value_is_refused(quickstart, monkeypatch, capsys):
    monkeypatch.setattr(quickstart, "SETTINGS", quickstart.SETTINGS | {"BATCH_SIZE": ""})
    monkeypatch.setattr(sys, "argv", ["quickstart_speech.py"])
    with pytest.raises(SystemExit):
        quickstart.parse_arguments()
    assert "BATCH_SIZE is empty" in capsys.readouterr().err
