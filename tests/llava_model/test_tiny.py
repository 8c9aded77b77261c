"""`python -m llava.model.tiny`: towers of random weights for a data set."""

import pytest
import torch

from llava.model import tiny
from llava.model.builder import build_model


def run(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["tiny", *map(str, arguments)])
    tiny.main()


SMALL = ("--hidden_size", 64, "--layers", 1, "--vision_hidden_size", 32, "--vision_layers", 2, "--vocab_size", 300)


def test_towers_build_a_model_and_are_the_same_for_a_seed(world, tmp_path, monkeypatch):
    states = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(monkeypatch, "--data_path", world.train, "--out", tmp_path / name, "--seed", seed, *SMALL)
        towers = str(tmp_path / name / "language_model"), str(tmp_path / name / "vision_tower")
        tokenizer, model, _ = build_model(*towers, -2, torch.float32, {}, mm_resampler_type="spatial_pool")
        states.append({key: weight for key, weight in model.state_dict().items() if "projector" not in key})
        assert len(tokenizer) <= 300
    first, again, other = states
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("content, message", [(None, "is not a file"), ("{", "is not JSON"), ("[1]", "record 0")])
def test_data_that_cannot_be_read_is_one_line(tmp_path, monkeypatch, content, message):
    data = tmp_path / "data.json"
    if content is not None:
        data.write_text(content)
    with pytest.raises(ValueError) as error:
        run(monkeypatch, "--data_path", data, "--out", tmp_path / "towers")
    assert message in str(error.value)
    assert not (tmp_path / "towers").exists()
