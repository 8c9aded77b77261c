"""Names the run that scores a checkpoint, so that an interrupted run is found again and a finished one is not repeated.

    python -m report_scores.key CHECKPOINT_FOLDER [SETTING ...]

prints the last folder of the checkpoint and a hash of the checkpoint's files, the data, the code that writes reports,
the library versions and the settings: two runs have the same name only if all of these are equal. The test set is
checked on the way.
"""

import argparse
import sys
from pathlib import Path

from report_scores.data import check_test_set, data_hashes
from report_scores.provenance import checkpoint_files, code_sha256, digest, versions


def run_name(checkpoint: str | Path, settings: list[str]) -> str:
    """The name of a run. Raises ValueError with one line when the test set cannot be used."""
    folder = Path(checkpoint)
    state = [checkpoint_files(folder), check_test_set(), data_hashes(), code_sha256(), versions(), settings]
    return f"{folder.resolve().name}_{digest(state)[:12]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="folder of the checkpoint")
    parser.add_argument("settings", nargs="*", help="all else that the reports depend on")
    args = parser.parse_args()
    try:
        print(run_name(args.checkpoint, args.settings))
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
