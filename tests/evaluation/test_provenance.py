"""What a score rests on: hashes that change with what they stand for and with nothing else."""

import hashlib
import json
import subprocess
import sys

import pytest

import report_scores.provenance
from report_scores.provenance import checkpoint_files, code_files, code_sha256, digest, git_state, sha256, versions
from report_scores.run_name import run_name

LIST_MODULES = """
import json, sys, llava.inference
names = [name for name in sys.modules if name.split(".")[0] in ("dllm", "llava")]
print(json.dumps([sys.modules[name].__file__ for name in names]))
"""


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


def test_the_code_is_all_that_writing_a_report_imports(monkeypatch, tmp_path):
    loaded = json.loads(subprocess.run([sys.executable, "-c", LIST_MODULES], capture_output=True, check=True).stdout)
    hashed = {str(file.resolve()) for file in code_files().values()}
    assert len(loaded) > 20 and not [file for file in loaded if file not in hashed]
    before = code_sha256()
    file = tmp_path / "inference.py"
    file.write_text("changed")
    monkeypatch.setattr(report_scores.provenance, "code_files", lambda: code_files() | {"llava/inference.py": file})
    assert before == digest({name: sha256(file) for name, file in code_files().items()}) != code_sha256()


def test_the_commit_and_whether_files_differ(tmp_path, monkeypatch):
    monkeypatch.setattr(report_scores.provenance, "__file__", str(tmp_path / "provenance.py"))
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
    def change_film():
        film = data / "images" / "test" / "study 0.png"
        film.write_bytes((data / "images" / "test" / "study 2.png").read_bytes())

    def change_reports():
        file = data / "train_llava_llada.json"
        file.write_text(file.read_text().replace("Pacemaker", "A pacemaker"))

    first = run_name(checkpoint, ["dtype=float32"])
    assert first.startswith("a model_") and first == run_name(f"{checkpoint}/", ["dtype=float32"])
    names = [first, run_name(checkpoint, ["dtype=bfloat16"])]
    for change in (
        lambda: (checkpoint / "model.safetensors").write_bytes(b"other"),
        lambda: (checkpoint / "config.json").write_text('{"gen_length": 8}'),
        change_film,
        change_reports,
        lambda: monkeypatch.setattr("report_scores.run_name.code_sha256", lambda: "other code"),
        lambda: monkeypatch.setattr("report_scores.run_name.versions", lambda: {"torch": "0"}),
    ):
        change()
        names.append(run_name(checkpoint, ["dtype=float32"]))
    assert len(set(names)) == len(names) == 8
    (data / "images" / "test" / "study 1.png").unlink()
    with pytest.raises(ValueError, match="test-1.*study 1.png"):
        run_name(checkpoint, [])
