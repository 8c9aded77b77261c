"""What a score rests on: hashes that change with what they stand for and with nothing else."""

import hashlib
import subprocess

import pytest

from dllm.training import model_card
from report_scores.provenance import (
    SCORING,
    checkpoint_files,
    code_sha256,
    digest,
    git_state,
    run_name,
    sha256,
    versions,
)


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "exp" / "a model"
    (folder / "checkpoint-5").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "config.json").write_text("{}")
    return folder


def test_hashes():
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1}) != digest({"a": 1, "b": [3]})
    assert sha256(__file__) == hashlib.sha256(open(__file__, "rb").read()).hexdigest()


def test_files_of_a_checkpoint_are_those_that_a_model_is_loaded_from(checkpoint):
    (checkpoint / "training_args.bin").write_bytes(b"pickle")
    files = checkpoint_files(checkpoint)
    assert list(files) == ["config.json", "model.safetensors"]
    assert files["model.safetensors"] == hashlib.sha256(b"weights").hexdigest()


def test_the_code_is_every_python_file_of_its_packages(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    inner = tmp_path / "package_of_the_test" / "inner"
    inner.mkdir(parents=True)
    (inner.parent / "__init__.py").write_text("")
    hashes = [code_sha256(["package_of_the_test"])]
    for name, text in (("a.py", "1"), ("a.py", "2"), ("b.py", "2")):
        (inner / name).write_text(text)
        hashes.append(code_sha256(["package_of_the_test"]))
    (inner / "a.pyc").write_text("compiled")
    assert len(set(hashes)) == 4 and code_sha256(["package_of_the_test"]) == hashes[-1]
    assert len({code_sha256(), code_sha256(SCORING), code_sha256(["llava"])}) == 3


def test_the_commit_and_whether_files_differ(tmp_path, monkeypatch):
    monkeypatch.setattr(model_card, "__file__", str(tmp_path / "model_card.py"))
    assert git_state() is None
    author = ["-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / "file").write_text("1")
    for command in (["init"], ["add", "."], [*author, "commit", "-m", "first"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True, capture_output=True)
    clean = git_state()
    assert len(clean["commit"]) == 40 and clean["dirty"] is False
    (tmp_path / "file").write_text("2")
    assert git_state() == clean | {"dirty": True}


def test_versions_are_of_the_libraries_that_write_reports():
    assert versions()["lmms_eval"] == "0.7.3" and set(versions()) == {"torch", "transformers", "lmms_eval"}


def test_a_run_has_another_name_as_soon_as_anything_differs(checkpoint, data, monkeypatch):
    def change_image():
        image = data / "images" / "test" / "study 0.png"
        image.write_bytes((data / "images" / "test" / "study 2.png").read_bytes())

    def change_reports():
        file = data / "train_llava_llada.json"
        file.write_text(file.read_text().replace("Pacemaker", "A pacemaker"))

    first = run_name(checkpoint, ["dtype=float32"])
    assert first.startswith("a model_") and first == run_name(f"{checkpoint}/", ["dtype=float32"])
    names = [first, run_name(checkpoint, ["dtype=bfloat16"])]
    for change in (
        lambda: (checkpoint / "model.safetensors").write_bytes(b"other"),
        lambda: (checkpoint / "config.json").write_text('{"gen_length": 8}'),
        change_image,
        change_reports,
        lambda: monkeypatch.setattr("report_scores.provenance.code_sha256", lambda: "other code"),
        lambda: monkeypatch.setattr("report_scores.provenance.versions", lambda: {"torch": "0"}),
    ):
        change()
        names.append(run_name(checkpoint, ["dtype=float32"]))
    assert len(set(names)) == len(names) == 8
    (data / "images" / "test" / "study 1.png").unlink()
    with pytest.raises(ValueError, match="test-1.*study 1.png"):
        run_name(checkpoint, [])
