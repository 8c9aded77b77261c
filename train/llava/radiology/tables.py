"""The tables of a release: CSV files, plain or compressed."""

import csv
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from dllm.program import describe, is_of_file_system

LONGEST_LINE = 1 << 20  # characters


def read_rows(table: Path, remedy: str, *columns: str) -> Iterator[dict[str, str]]:
    """The rows of a table that must have these columns. Raises ValueError, ending in the remedy, on any other."""
    try:
        with (gzip.open if table.suffix == ".gz" else open)(table, "rt", encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(_lines(file, table))
            for column in columns:
                if column not in (rows.fieldnames or ()):
                    raise ValueError(f"{table}: has no column {column!r}; {remedy}")
            for row in rows:
                if None in row.values():
                    raise ValueError(f"{table}, line {rows.line_num}: the line is cut off; {remedy}")
                yield row
    except (OSError, EOFError, zlib.error, csv.Error, UnicodeDecodeError) as error:
        if is_of_file_system(error):
            raise ValueError(describe(error)) from error
        raise ValueError(f"{table}: cannot be read ({error}); {remedy}") from error


def _lines(file: TextIO, table: Path) -> Iterator[str]:
    """The lines of a table. A small compressed file may hold one that fills the memory."""
    while line := file.readline(LONGEST_LINE):
        if len(line) == LONGEST_LINE:
            problem = f"a line has {LONGEST_LINE:,} characters or more: it is no such table"
            raise ValueError(f"{table}: {problem}; copy it again")
        yield line
