"""Commands of the published system that its users type, where the program is elsewhere here."""

import subprocess
import sys
from pathlib import Path

TRAIN = Path(__file__).resolve().parents[2] / "train"


def test_generate_demo_in_train_says_where_the_program_is():
    done = subprocess.run(
        [sys.executable, "generate_demo.py", "--steps", "8"], cwd=TRAIN, capture_output=True, text=True
    )
    assert done.returncode == 1 and done.stdout == ""
    [line] = done.stderr.splitlines()
    command = line.partition(": ")[2].partition(": ")[2]
    assert line.startswith("error: ") and command == "cd .. && python generate_demo.py"
    assert (TRAIN.parent / "generate_demo.py").is_file()
