"""The text quickstart from data to table, a few steps long, and the dispatcher of all quickstarts."""

import json
import subprocess
import sys

import pytest

import quickstart_common
import quickstart_text
from dllm.data.tiny_tasks import TASKS
from dllm.program import run_program


def test_it_runs_end_to_end_and_goes_on_where_it_was(tmp_path, monkeypatch, capsys):
    arguments = ["--out", str(tmp_path / "out"), "--train", "128", "--test", "10", "--epochs", "1"]
    monkeypatch.setattr(quickstart_text, "LAUNCH", (sys.executable,))  # one process: its start takes most of the time
    monkeypatch.setattr(sys, "argv", ["quickstart_text.py", *arguments])
    quickstart_text.main()
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert set(summary["exact_match"]) >= {"model", "blind"}
    assert all(0 <= value <= 1 for value in (*summary["exact_match"].values(), summary["infill_exact_match"]))
    assert summary["steps"]["model"] == 4 and summary["steps"]["twin"] >= 1
    assert summary["seconds"]["twin"] == pytest.approx(summary["seconds"]["model"], abs=5)
    assert all(nll > 0 for nll in summary["nll"].values()) and summary["tokens_per_step"] > 0
    table = capsys.readouterr().out
    assert all(word in table for word in (*TASKS, "another question", "twin", "tokens/step"))

    monkeypatch.setattr(quickstart_common, "launch", None)  # nothing is left to run
    quickstart_text.main()
    assert json.loads((tmp_path / "out/summary.json").read_text()) == summary
    monkeypatch.setattr(sys, "argv", ["quickstart_text.py", *arguments[:-1], "2"])
    with pytest.raises(SystemExit, match="holds a run with other settings"):
        run_program(quickstart_text.main)


def test_exact_match_counts_by_task(tmp_path):
    turns = (("sort: b a c d", "a b c d"), ("add: 1 2", "3"), ("add: 2 2", "4"))
    records = [
        {
            "id": str(n),
            "task": question.split(":")[0],
            "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}],
        }
        for n, (question, answer) in enumerate(turns)
    ]
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, records)))
    test = quickstart_text.Questions(tmp_path / "test.jsonl")
    assert test.exact_match(["a b c d", "3", "5"]) == {"all": pytest.approx(2 / 3), "sort": 1.0, "add": 0.5}


@pytest.mark.parametrize("name", ["nothing", "common"])
def test_a_quickstart_that_does_not_exist_is_one_line(name):
    command = ["bash", quickstart_text.ROOT / "scripts/quickstart.sh", name]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 1 and process.stdout == ""
    (line,) = process.stderr.splitlines()
    assert line.startswith(f"error: no quickstart is called {name}") and "one of report" in line
