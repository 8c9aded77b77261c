"""open_clip and timm towers: what is refused without the libraries, and with_towers.py where they are installed."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from llava.model.multimodal_encoder import library_encoder
from llava.model.multimodal_encoder.builder import load_vision_tower
from oracles import towers

HERE = Path(__file__).resolve().parent


@pytest.mark.skipif(not towers.TOWERS.is_dir(), reason=f"no {towers.TOWERS}: scripts/environment.sh installs it")
def test_towers_of_the_libraries():
    command = [sys.executable, towers.__file__, "-q", "--tb=short", str(HERE / "with_towers.py")]
    done = subprocess.run(command, cwd=HERE.parents[1], capture_output=True, text=True)
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout + done.stderr
    assert "skipped" not in done.stdout


def folder_of(tmp_path, library, *files):
    folder = tmp_path / library
    folder.mkdir()
    for name in files:
        (folder / name).write_bytes(b"{}")
    return folder


@pytest.mark.parametrize("library", library_encoder.LIBRARIES)
def test_pickled_weights_are_refused(tmp_path, library):
    config, weights, _ = library_encoder.LIBRARIES[library]
    folder = folder_of(tmp_path, library, config, "pytorch_model.bin", "model.pt")
    message = f"--vision_tower {library}:{folder} has no {weights}; pickle files .* are never read: make it of one with"
    with pytest.raises(ValueError, match=message) as error:
        load_vision_tower(f"{library}:{folder}", -2, torch.float32)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("library", library_encoder.LIBRARIES)
def test_an_incomplete_folder_is_named(tmp_path, library):
    config, weights, _ = library_encoder.LIBRARIES[library]
    folder = folder_of(tmp_path, library, weights)
    with pytest.raises(ValueError, match=f"{folder} is incomplete: {config} is missing"):
        load_vision_tower(f"{library}:{folder}", -2, torch.float32)
    (folder / config).write_text("{}")
    with pytest.raises(ValueError, match=f"{folder / weights} is damaged"):
        load_vision_tower(f"{library}:{folder}", -2, torch.float32)


@pytest.mark.parametrize("name", ["owner/tower", "hf-hub:owner/tower", "hf_hub:owner/tower"])
def test_a_name_is_a_repository_of_which_only_config_and_safetensors_are_had(tmp_path, monkeypatch, name):
    asked = []

    def download(repository, allow_patterns):
        asked.append((repository, allow_patterns))
        raise OSError("no network\nat all")

    monkeypatch.setattr(library_encoder, "snapshot_download", download)
    with pytest.raises(ValueError, match=f"--vision_tower open_clip:{name} is no folder, .*OSError") as error:
        load_vision_tower(f"open_clip:{name}", -2, torch.float32)
    assert asked == [("owner/tower", ["open_clip_config.json", "open_clip_model.safetensors"])]
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("problem", [None, RuntimeError("operator torchvision::nms does not exist")])
def test_a_library_that_is_missing_or_broken_is_one_line_with_its_extra(monkeypatch, problem):
    monkeypatch.setitem(sys.modules, "timm", None)
    if problem is not None:
        monkeypatch.setattr(library_encoder, "import_module", lambda _: (_ for _ in ()).throw(problem))
    with pytest.raises(ValueError) as error:
        library_encoder.import_library("timm")
    assert str(error.value).startswith("a vision tower of timm needs its package (")
    assert str(error.value).endswith('pip install -e "train[towers]"')
