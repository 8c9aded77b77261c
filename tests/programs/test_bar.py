"""What a bar leaves in a log file, where it cannot be drawn over."""

import sys
from types import SimpleNamespace

import pytest

from dllm import bar as module
from dllm.bar import Bar

TOTAL = 40


@pytest.fixture
def lines(monkeypatch, capsys):
    """The lines that a bar of TOTAL things leaves, of which each takes so many seconds."""

    def lines(seconds: float, count: int = TOTAL, **arguments) -> list[str]:
        clock = [0.0]
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock[0]))
        with Bar(total=TOTAL, desc="images", mininterval=0, miniters=1, **arguments) as bar:
            for _ in range(count):
                clock[0] += seconds
                bar.update()
        return capsys.readouterr().err.splitlines()

    return lines


def shares(lines: list[str]) -> list[int]:
    return [int(line.removeprefix("images:").split("%")[0]) for line in lines]


def test_every_tenth_is_a_line(lines):
    assert shares(lines(10)) == [*range(10, 101, 10)]


def test_lines_of_a_short_job_are_half_a_minute_apart(lines):
    assert shares(lines(0.2)) == [100]
    assert shares(lines(3)) == [28, 55, 82, 100]


def test_a_long_job_is_seen_to_be_alive(lines):
    assert len(lines(700)) == TOTAL


def test_what_took_no_time_leaves_no_line_unless_it_is_wanted(lines):
    assert lines(0.01) == []
    assert shares(lines(0.01, brief=0)) == [100]


def test_a_job_that_ends_early_says_where(lines):
    assert shares(lines(0.2, count=20)) == [50]


def test_a_terminal_gets_a_bar_that_is_drawn_over(lines, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    states = [state for state in lines(0.2) if state.strip()]
    assert "  0%" in states[0] and "100%" in states[-1] and len(states) > TOTAL
