"""How the quickstarts run a step: one line says what it does, and the last line why it failed."""

import sys

import pytest

import quickstart_common
from dllm.program import run_program


def test_a_step_says_once_what_it_does_and_where_its_result_lies(capfd):
    quickstart_common.run("data: a line -> exp/data", "bash", "-c", "echo done", env={"SIZE": 3})
    assert capfd.readouterr() == ("\n== data: a line -> exp/data\n   SIZE='3' bash -c echo done\ndone\n", "")


def test_what_a_step_prints_goes_to_its_log(tmp_path, capfd):
    quickstart_common.run("data: a line", "bash", "-c", "echo done; echo seen >&2", log=tmp_path / "log")
    assert sorted((tmp_path / "log").read_text().split()) == ["done", "seen"]
    assert capfd.readouterr() == ("\n== data: a line\n   bash -c echo done; echo seen >&2\n", "seen\n")


def test_the_cause_of_a_failure_is_the_last_line(monkeypatch, capfd):
    script = "echo 'train: error: a.png: empty; mend it' >&2; for n in 1 2 3; do echo Traceback >&2; done; exit 1"
    monkeypatch.setattr(sys, "argv", ["quickstart.py"])
    with pytest.raises(SystemExit) as exit:
        run_program(lambda: quickstart_common.run("stage 1: it learns -> exp/stage1", "bash", "-c", script))
    assert exit.value.code.startswith("error: step 'stage 1': a.png: empty; mend it (")
    assert capfd.readouterr().err.endswith("Traceback\n")  # sys.exit prints the cause after it


def test_bars_of_libraries_are_off_where_they_cannot_be_drawn_over(capfd):
    quickstart_common.run("bars: off", "bash", "-c", "echo $HF_HUB_DISABLE_PROGRESS_BARS")
    assert capfd.readouterr().out.endswith("\n1\n")
