"""README and docs are short where they should be, and their links and commands name what is there."""

import re
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest

from dllm.core.decoding import Decoding

ROOT = Path(__file__).resolve().parents[2]
GUIDES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = [*GUIDES, *(ROOT / folder / "README.md" for folder in ("data", "benchmarks", "eval/lmms-eval"))]
EXPERIMENTS = sorted((ROOT / "docs/experiments").glob("*.md"))
SHOWN = re.compile(r"```bash\n(.*?)```|((?:^ {4}\S.*\n)+)", flags=re.DOTALL | re.MULTILINE)  # fenced or indented
PROGRAM = re.compile(r"(?:bash|python|sbatch(?: --\S+)*) (?:-m ([\w.]+)|([\w/.-]+\.(?:sh|py)))(.*)")
OURS = ("dllm", "llava", "report_scores")
OPTIONS_IN = {"quickstart.sh": "scripts/quickstart.py", "mimic_release.py": "train/llava/phantom/generate.py"}
SHARED = {  # options that several programs have, by the module that they import
    "dllm.inference.command_line": ROOT / "train/dllm/inference/command_line.py",
    "diffa.evaluation.answers": ROOT / "train/diffa/evaluation/answers.py",
    "dllm.pipelines.a2d.tiny": ROOT / "train/dllm/pipelines/a2d/tiny.py",
}
# Options that a loop adds.
LOOPED = ("indication", "comparison", "history", "technique", "train", "val", "test")
LOOPED += tuple(each.name for each in fields(Decoding))


def commands(page: Path) -> list[str]:
    """Commands of a page, one a line, without comments."""
    blocks = [fenced or indented for fenced, indented in SHOWN.findall(page.read_text(encoding="utf-8"))]
    lines = [line.split(" #")[0].strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if PROGRAM.search(line)]


def programs(page: Path) -> list[tuple[str, Path, list[str]]]:
    """(command, file that it starts, names of its options) of the commands of a page that start something of ours."""
    found = []
    for command in commands(page):
        module, script, rest = PROGRAM.search(command).groups()
        folder = ROOT / match[1] if (match := re.match(r"cd (\S+) && ", command)) else ROOT
        if script:
            file = folder / script
        elif module.split(".")[0] in OURS:
            where = (
                ROOT / ("eval/lmms-eval" if module.startswith("report_scores") else "train") / module.replace(".", "/")
            )
            file = where / "__main__.py" if where.is_dir() else where.with_suffix(".py")
        else:
            continue
        found.append((command, file, re.findall(r"--(\w+)", rest)))
    return found


def relative_links(page: Path) -> list[str]:
    return re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))


def test_the_readme_stays_short():
    assert (ROOT / "README.md").stat().st_size < 8000


def test_every_guide_is_linked_from_the_readme():
    linked = {(ROOT / link).resolve() for link in relative_links(ROOT / "README.md")}
    assert [page.name for page in GUIDES[1:] if page not in linked] == []


@pytest.mark.parametrize("page", [*PAGES, *EXPERIMENTS], ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_resolves(page):
    assert [link for link in relative_links(page) if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_program_of_a_command_is_there(page):
    assert [command for command, file, _ in programs(page) if not file.is_file()] == []


def test_every_option_of_a_command_is_known():
    seen = 0
    for command, file, options in (each for page in PAGES for each in programs(page)):
        file = ROOT / OPTIONS_IN.get(file.name, file)
        if file.suffix == ".py":
            text = file.read_text(encoding="utf-8")
            text += "".join(shared.read_text(encoding="utf-8") for name, shared in SHARED.items() if name in text)
            unknown = [name for name in options if f'"--{name}"' not in text and not (name in LOOPED and "--{" in text)]
            assert unknown == [], command
            seen += len(options)
    assert seen >= 50


def test_stage_scripts_and_evaluation_are_valid_bash():
    for script in sorted([*ROOT.glob("**/scripts/*.sh"), ROOT / ".ci/run"]):
        if ".venv" not in script.parts:
            subprocess.run(["bash", "-n", script], check=True)
            assert script.read_text().strip()
