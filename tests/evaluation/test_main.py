"""python -m report_scores: what it prints and leaves, and its errors."""

import os

import pytest

import report_scores.__main__
from dllm.program import run_program
from oracles.report_runs import write_run
from report_scores.__main__ import main
from report_scores.provenance import run_name
from report_scores.scorer import ROUGE_L

TEXTS = {"model": ["Clear.", "Small left effusion.", "No."], "shuffled_images": ["Clear.", "No.", "No."]}


@pytest.fixture(autouse=True)
def one_score(monkeypatch):
    """One score that needs no Java."""
    monkeypatch.setattr(report_scores.__main__, "METRICS", (ROUGE_L,))


def run(*arguments: str) -> None:
    run_program(lambda: main([*arguments]))


def test_name(data, tmp_path, capsys):
    (tmp_path / "config.json").write_text("{}")
    run("name", str(tmp_path), "dtype=float32", "limit=")
    assert capsys.readouterr().out == run_name(tmp_path, ["dtype=float32", "limit="]) + "\n"
    (data / "images" / "test" / "study 1.png").unlink()
    with pytest.raises(SystemExit, match="^error: .*study 1.png"):
        run("name", str(tmp_path))


def test_complete(data, tmp_path):
    with pytest.raises(SystemExit, match="^error: .*no results"):
        run("complete", str(tmp_path))
    write_run(tmp_path / "run", TEXTS)
    run("complete", str(tmp_path))


def test_report_prints_all_tables_and_pages(data, tmp_path, capsys):
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        write_run(folder, TEXTS)
    run("report", *map(str, folders))
    out = capsys.readouterr().out
    for file in (tmp_path / "comparison.md", folders[0] / "scores.md", folders[1] / "scores.md"):
        assert file.read_text() in out
    assert out.endswith("".join(f"{folder}/reports.html: 3 studies, 3 images\n" for folder in folders))
    assert "finding_F1" not in out and "effusion left" not in (folders[0] / "reports.html").read_text(encoding="utf-8")


def test_finding_f1_is_asked_for(data, tmp_path, capsys):
    write_run(tmp_path / "run", TEXTS)
    run("report", str(tmp_path / "run"), "--finding_f1")
    assert "finding_F1" in capsys.readouterr().out and not (tmp_path / "comparison.md").exists()
    assert "effusion left" in (tmp_path / "run" / "reports.html").read_text(encoding="utf-8")


def test_what_cannot_be_written_is_one_line(data, tmp_path, monkeypatch):
    write_run(tmp_path / "run", TEXTS)

    def replace(source, target):
        raise PermissionError(13, "Permission denied", str(source))

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(SystemExit, match="error: .*statistics.npz.*: Permission denied"):
        run("report", str(tmp_path / "run"))
