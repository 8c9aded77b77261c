"""The commands of README and docs name files that are there and options that the programs have."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands() -> list[str]:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    return [line.split("#")[0].strip() for block in blocks for line in block.splitlines() if line.split("#")[0].strip()]


def test_every_script_of_a_command_is_there():
    missing, seen = [], 0
    for command in commands():
        folder, _, rest = command.rpartition("&& ")
        folder = ROOT / folder.removeprefix("cd ").removesuffix(" ") if folder else ROOT
        for script in re.findall(r"(?:bash|python) ([\w/.-]+\.(?:sh|py))", rest):
            seen += 1
            if not (folder / script).is_file():
                missing.append(command)
    assert seen >= 8 and not missing


def test_every_option_of_a_python_command_is_known():
    programs = {"generate_demo.py": "generate_demo.py", "convert_data.py": "convert_data.py"}
    programs["scripts/quickstart.sh"] = "scripts/quickstart.py"
    seen = 0
    for command in commands():
        for name, source in programs.items():
            if name in command:
                text = (ROOT / source).read_text() + 'add_argument("--indication"'  # made in a loop over the fields
                for option in re.findall(r"--(\w+)", command.split(name)[1]):
                    assert f'"--{option}"' in text, f"{command}: {name} has no --{option}"
                    seen += 1
    assert seen >= 6


def test_every_linked_file_is_there():
    for page in PAGES:
        links = re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8"))
        assert [link for link in links if not (page.parent / link).exists()] == [], page.name


def test_the_readme_stays_short():
    assert (ROOT / "README.md").stat().st_size < 8000


def test_stage_scripts_and_evaluation_are_valid_bash():
    for script in sorted([*ROOT.glob("**/scripts/*.sh"), ROOT / ".ci/run"]):
        if ".venv" not in script.parts:
            subprocess.run(["bash", "-n", script], check=True)
            assert script.read_text().strip()
