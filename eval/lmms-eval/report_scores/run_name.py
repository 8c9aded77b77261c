"""The name of a run, by which an interrupted run is found again and a finished one is not repeated."""

from pathlib import Path

from report_scores.data import check_test_set, data_hashes
from report_scores.provenance import checkpoint_files, code_sha256, digest, versions


def run_name(checkpoint: str | Path, settings: list[str]) -> str:
    """The last folder of the checkpoint, and a hash of all that the reports depend on: files, data, code, settings.

    Raises ValueError with one line when the test set cannot be used.
    """
    folder = Path(checkpoint)
    state = [checkpoint_files(folder), check_test_set(), data_hashes(), code_sha256(), versions(), settings]
    return f"{folder.resolve().name}_{digest(state)[:12]}"
