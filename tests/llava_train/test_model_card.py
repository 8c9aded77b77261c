"""The card beside the weights says what they are, loads them as it says, takes scores, goes with them to the hub."""

import shutil
import sys
from pathlib import Path

import pytest
from huggingface_hub import HfApi
from PIL import Image
from transformers import AutoModel, AutoProcessor

from dllm.data.files import sha256
from dllm.training.model_card import put_scores
from llava.train.train import train


@pytest.fixture(scope="module")
def out(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("card") / "my_model"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["train_mem.py", *world.arguments(folder, data_path=world.train, max_steps=2)])
        train()
    return folder


def test_it_names_data_settings_and_commit(out, world):
    card = (out / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n") and "# my_model\n" in card
    assert f"| `--data_path` | {world.train.name} | sha256 {sha256(world.train)} |" in card
    assert str(world.train.parent) not in card  # nobody else's folders
    for part in ("Not for clinical use", "| samples a step | 4 |", "| block_length | 16 |", "commit ", "Apache-2.0"):
        assert part in card
    assert "2 steps" in card and "None yet" in card


def test_it_loads_as_it_says(out, world, capsys):
    code = (out / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    image = next(world.images.rglob("*.jpg"))
    exec(code, {"FOLDER": str(out), "IMAGE": str(image)})
    assert capsys.readouterr().out.startswith("['")


def test_an_evaluation_puts_its_table_into_it(out, tmp_path):
    shutil.copy(out / "README.md", tmp_path / "README.md")
    assert put_scores(tmp_path, "| a | 1 |\n") and put_scores(tmp_path, "| b | 2 |\n")
    card = (tmp_path / "README.md").read_text()
    assert "| b | 2 |" in card and "| a | 1 |" not in card and "None yet" not in card
    assert not put_scores(tmp_path / "elsewhere", "| a | 1 |")


def test_it_goes_to_the_hub_and_comes_back(out, world, tmp_path, monkeypatch):
    """`push_to_hub` of model and processor, with a folder in the hub's stead."""
    hub = tmp_path / "hub"

    class Hub(HfApi):
        def create_repo(self, repo_id, **kwargs):
            return type("Repo", (), {"repo_id": repo_id})()

        def create_branch(self, *args, **kwargs):
            pass

        def create_commit(self, repo_id, operations, **kwargs):
            for each in operations:
                target = hub / repo_id / each.path_in_repo
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(each.path_or_fileobj, target)

    monkeypatch.setattr("transformers.utils.hub.hf_api", Hub)
    for each in (AutoModel, AutoProcessor):
        each.from_pretrained(out).push_to_hub("me/model")
    again = [each.from_pretrained(hub / "me/model") for each in (AutoModel, AutoProcessor)]
    image = Image.open(next(Path(world.images).rglob("*.jpg"))).convert("RGB")
    assert again[0].eval().generate(**again[1](images=image, text="Look."), gen_length=16).ids.shape == (1, 16)
