"""generate_demo.py as a user runs it, on a tiny random model."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

DEMO = Path(__file__).resolve().parents[2] / "generate_demo.py"


@pytest.fixture(scope="module")
def model_path(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "model"
    for part in world.build(mm_resampler_type="none"):
        part.save_pretrained(folder)
    return folder


def demo(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, str(DEMO), *map(str, arguments)], capture_output=True, text=True)


def test_writes_a_report_with_the_context_in_the_prompt_and_shows_every_step(world, model_path):
    film = world.images / json.loads(world.test.read_text())[0]["image"]
    arguments = ("--model_path", model_path, "--image", film, "--indication", "chest pain", "--gen_length", 20)
    done = demo(*arguments, "--block_length", 10, "--show_steps")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    steps = [line for line in lines if line[:3].strip().isdigit()]
    assert [int(line[:3]) for line in steps] == list(range(1, len(steps) + 1)) and len(steps) in (10, 20)
    assert any("·" in line for line in steps), "no step shows a masked token"
    assert f"image:  {film}" in lines
    prompt = "Provide a detailed description of the findings in the radiology image. Following clinical context: "
    assert f"prompt: {prompt}Indication: chest pain" in lines
    report = next(line for line in lines if line.startswith("report:"))
    assert "<|" not in report

    again = demo(*arguments, "--block_length", 10)
    assert report in again.stdout.splitlines(), "the same call writes another report"


def test_a_mistake_is_one_line(world, model_path, tmp_path):
    Image.new("L", (1, 1)).save(tmp_path / "dot.png")
    film = world.images / json.loads(world.test.read_text())[0]["image"]
    for arguments, said in [
        (("--model_path", model_path, "--image", tmp_path / "none.jpg"), "none.jpg: no such image file"),
        (("--model_path", model_path, "--image", tmp_path / "dot.png"), "1x1"),
        (("--model_path", tmp_path, "--image", film), "config.json is missing"),
        (("--model_path", model_path, "--image", film, "--remasking", "best"), "unknown remasking 'best'"),
    ]:
        done = demo(*arguments)
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert done.returncode == 1 and len(errors) == 1 and said in errors[0], done.stderr
        assert "Traceback" not in done.stderr and done.stdout == ""
