"""The model card, `README.md` beside the weights: what they were trained on and how, and what they score.

A run writes it with the weights; an evaluation puts its table into it (`put_scores`).
"""

import os
import subprocess
from dataclasses import MISSING, fields
from importlib.metadata import version
from pathlib import Path

from dllm.data.files import replacing

FILE = "README.md"
BEGIN, END = "<!-- scores -->", "<!-- end of scores -->"
NO_SCORES = "None yet: an evaluation writes its table here."
LIBRARIES = ("torch", "transformers")
HEAD = """---
library_name: transformers
license: other
tags: [masked-diffusion, {model_type}]
---
# {name}

**Not for clinical use.** A research model: what it writes can be wrong, and nobody has checked it on patients.

A masked-diffusion language model of type `{model_type}`; {progress}.

## How to load it

With the packages of its repository installed:

```python
{usage}
```

## Scores

{begin}
{no_scores}
{end}

## Data and starting point

| | file or folder | content |
|---|---|---|
"""


def git_state() -> dict | None:
    """{"commit": hash, "dirty": whether any file differs from it} of the repository; None where there is none."""

    def git(*command: str) -> str:
        return subprocess.check_output(
            ["git", *command], cwd=Path(__file__).parent, text=True, stderr=subprocess.DEVNULL
        ).strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return None


def write_card(folder: str | Path, name: str, arguments: tuple, settings: dict, model, progress: str) -> None:
    """Writes the card of a run with these `arguments` (dataclasses) and `settings` (`ResumableTrainer.run_settings`);
    of paths it tells the last part, and what they hold by its hash.
    """
    values = {"begin": BEGIN, "end": END, "no_scores": NO_SCORES, "usage": model.usage, "progress": progress}
    text = HEAD.format(name=name, model_type=model.config.model_type, **values)
    given = {f"--{field.name}": (field, getattr(each, field.name)) for each in arguments for field in fields(each)}
    paths = {flag: value for flag, (_, value) in given.items() if isinstance(value, str) and os.path.exists(value)}
    for flag, path in paths.items():
        if content := settings.get(f"data of {flag}", settings.get(flag)):
            text += f"| `{flag}` | {Path(path).name} | {content} |\n"
    text += "\n## Settings\n\nThose that are not the defaults of the training program:\n\n| | |\n|---|---|\n"
    changed = {name: value for name, value in settings.items() if not name.startswith(("--", "data of"))}
    for flag, (field, value) in given.items():
        if flag in settings and flag not in paths and value != _default(field):
            changed[flag] = value
    text += "".join(f"| {name.strip('-')} | {value} |\n" for name, value in changed.items() if value is not None)
    state = git_state() or {"commit": "unknown", "dirty": False}
    versions = ", ".join(f"{library} {version(library)}" for library in LIBRARIES)
    text += f"\nCode: commit {state['commit']}{' with changes' * state['dirty']}; {versions}.\n"
    text += (
        "\n## Licence\n\nThe code is under Apache-2.0. The weights are subject to the licences of the models that they "
        "started from and to the terms of their data.\n"
    )
    with replacing(Path(folder) / FILE) as partial:
        partial.write_text(text, encoding="utf-8")


def put_scores(folder: str | Path, table: str) -> bool:
    """Puts a table in Markdown into the card of a model folder; False where there is no card that can be written."""
    path = Path(folder) / FILE
    try:
        before, begin, rest = path.read_text(encoding="utf-8").partition(BEGIN)
        _, end, after = rest.partition(END)
        if not end:
            return False
        with replacing(path) as partial:
            partial.write_text(f"{before}{begin}\n{table.strip()}\n{end}{after}", encoding="utf-8")
    except OSError:
        return False
    return True


def _default(field):
    return field.default_factory() if field.default_factory is not MISSING else field.default
