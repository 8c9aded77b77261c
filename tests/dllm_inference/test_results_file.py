"""The file of reports: what a later run finds in it, keeps, drops and refuses."""

import json
import resource
from contextlib import contextmanager

import pytest

from dllm.inference.results_file import ResultsFile
from dllm.inference.writer import Response as Report

NAMES = ("image", "report")
SETTINGS = {"model_path": "exp/stage2", "question": "<image>\nDescribe.", "threshold": None, "seed": 0}
A, B = Report("Clear lungs.\nNo effusion. µ", 9, 4), Report("Small effusion.", 5, 5)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "reports.jsonl"


def entries(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def entry(image: str, report: Report, settings=None) -> dict:
    body = {"image": image, "report": report.text, "tokens": report.tokens, "steps": report.steps}
    return body | {"settings": settings or SETTINGS}


def test_every_line_is_in_the_file_as_soon_as_it_is_added(path):
    file = ResultsFile(path, SETTINGS, NAMES)
    file.add("p1/a.jpg", A)
    assert entries(path) == [entry("p1/a.jpg", A)]
    file.add_error("b.jpg", "b.jpg: empty")
    assert entries(path)[1:] == [{"image": "b.jpg", "error": "b.jpg: empty"}]
    assert file.results == {"p1/a.jpg": A}


def test_a_later_run_keeps_the_reports_and_tries_errors_again(path):
    file = ResultsFile(path, SETTINGS, NAMES)
    for image, report in (("a.jpg", A), ("b.jpg", None), ("c.jpg", B)):
        file.add(image, report) if report else file.add_error(image, "damaged")
    again = ResultsFile(path, dict(SETTINGS), NAMES)
    assert again.results == {"a.jpg": A, "c.jpg": B}
    assert entries(path) == [entry("a.jpg", A), entry("c.jpg", B)]
    again.add("b.jpg", B)
    assert [line["image"] for line in entries(path)] == ["a.jpg", "c.jpg", "b.jpg"]
    assert {each.name for each in path.parent.iterdir()} == {path.name, f".{path.name}.lock"}


def test_a_rewrite_that_fails_leaves_the_file_as_it_was(path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    ResultsFile(path, SETTINGS, NAMES).add("a.jpg", A)
    ResultsFile(path, SETTINGS, NAMES).add_error("b.jpg", "damaged")
    before = path.read_bytes()
    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(ValueError, match="cannot be written .No space left on device.; choose another --out"):
        ResultsFile(path, SETTINGS, NAMES)
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("part", [1, 5, 40, -1])
def test_a_line_that_was_cut_off_is_dropped(path, part):
    file = ResultsFile(path, SETTINGS, NAMES)
    file.add("a.jpg", A)
    whole = path.read_bytes()
    file.add("b.jpg", B)
    both = path.read_bytes()
    path.write_bytes(whole + both[len(whole) :][:part])
    again = ResultsFile(path, SETTINGS, NAMES)
    assert again.results == {"a.jpg": A} and path.read_bytes() == whole
    again.add("b.jpg", B)
    assert path.read_bytes() == both


def test_a_file_without_reports_is_not_left_behind(path):
    ResultsFile(path, SETTINGS, NAMES)
    assert not path.exists()
    ResultsFile(path, SETTINGS, NAMES).add_error("a.jpg", "damaged")
    ResultsFile(path, SETTINGS, NAMES)
    assert not path.exists()
    ResultsFile(path.parent / "new" / "folder" / "r.jsonl", SETTINGS, NAMES).add("a.jpg", A)


@pytest.mark.parametrize(
    "settings, said",
    [
        (SETTINGS | {"threshold": 0.9}, "with threshold None, not 0.9"),
        (SETTINGS | {"model_path": "exp/other"}, "with model_path 'exp/stage2', not 'exp/other'"),
        (SETTINGS | {"temperature": 1.0}, "with temperature None, not 1.0"),
        ({name: value for name, value in SETTINGS.items() if name != "seed"}, "with seed 0, not None"),
    ],
)
def test_other_settings_are_named(path, settings, said):
    ResultsFile(path, SETTINGS, NAMES).add("a.jpg", A)
    ResultsFile(path, SETTINGS, NAMES).add_error("b.jpg", "damaged")
    before = path.read_bytes()
    with pytest.raises(ValueError, match=f"reports.jsonl:1 was written {said}; choose another --out"):
        ResultsFile(path, settings, NAMES)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "content, said",
    [
        (b'[{"image": "a.jpg"}]', "reports.jsonl:1: no line of a results file"),
        (b'{"image": "a.jpg"}\n', "reports.jsonl:1: no line of a results file"),
        (json.dumps(entry("a", A)).encode() + b"\n\n", "reports.jsonl:2: no line of a results file"),
        (json.dumps(entry("a", A) | {"tokens": "9"}).encode() + b"\n", "reports.jsonl:1: no line of a results file"),
        (2 * (json.dumps(entry("a", A)).encode() + b"\n"), "reports.jsonl:2: a second line for a"),
        (b"\xff\xd8\xff", "reports.jsonl: not UTF-8 text"),
    ],
)
def test_a_file_of_another_kind_is_refused_and_left_alone(path, content, said):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{said}; choose another --out"):
        ResultsFile(path, SETTINGS, NAMES)
    assert path.read_bytes() == content


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(ValueError, match="not a file; choose another --out"):
        ResultsFile(tmp_path, SETTINGS, NAMES)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be (read|written).*choose another --out"):
        ResultsFile(tmp_path / "file" / "reports.jsonl", SETTINGS, NAMES)
    with pytest.raises(ValueError, match="cannot be written .*choose another --out"):
        ResultsFile("/proc/reports.jsonl", SETTINGS, NAMES)


def test_a_full_disk_is_one_line_and_costs_no_report(path):
    file = ResultsFile(path, SETTINGS, NAMES)
    file.add("a.jpg", A)
    with file_size_limit(path.stat().st_size + 20), pytest.raises(ValueError, match="cannot be written .*large"):
        file.add("b.jpg", B)
    assert ResultsFile(path, SETTINGS, NAMES).results == {"a.jpg": A}


@contextmanager
def file_size_limit(size: int):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
