"""Kind 4: numbers that are not finite are found where they enter, not written about."""

import json
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from dllm.core.decoding import Decoding
from faults.test_errors import demo

NAN, INF = math.nan, math.inf
WEIGHTS = {
    "lm_head": "language_model.model.embed_tokens.weight",
    "norm": "language_model.model.norm.weight",
    "tower": "layers.0.mlp.fc1.bias",
    "projector": "mm_projector.0.weight",
}


def spoiled(folder, part: str, value: float, dtype=None):
    """One number of one weight becomes `value`."""
    state = load_file(folder / "model.safetensors")
    name = min(name for name in state if name.endswith(WEIGHTS[part]))
    weight = state[name] if dtype is None else state[name].to(dtype)
    weight.view(-1)[weight.numel() // 2] = value
    save_file(state | {name: weight}, folder / "model.safetensors", metadata={"format": "pt"})
    return name


@pytest.mark.parametrize(
    ("part", "value", "dtype"),
    [("lm_head", NAN, None), ("norm", INF, None), ("tower", NAN, torch.bfloat16), ("projector", -INF, None)],
)
def test_weights(world, model, tmp_path, line, part, value, dtype):
    folder = shutil.copytree(model, tmp_path / "model")
    name = spoiled(folder, part, value, dtype)
    told = line(demo.main, "--model_path", folder, "--image", next(world.images.rglob("*.jpg")))
    assert f"the weight {name} holds NaN or infinite numbers" in told


def test_hidden_states_that_overflow_end_in_a_line_and_no_report(world, model, tmp_path, line):
    folder = shutil.copytree(model, tmp_path / "model")
    spoiled(folder, "norm", 3e38)
    told = line(demo.main, "--model_path", folder, "--image", next(world.images.rglob("*.jpg")))
    assert "the model's hidden states hold NaN or infinite numbers" in told


@pytest.mark.parametrize(
    "values",
    [{"image_std": [0.5, 0.0, 0.5]}, {"image_std": [NAN] * 3}, {"image_std": [-1.0] * 3}, {"image_mean": [INF] * 3}],
)
def test_a_preprocessor(world, model, tmp_path, line, values):
    folder = shutil.copytree(model, tmp_path / "model")
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    told = line(demo.main, "--model_path", folder, "--image", next(world.images.rglob("*.jpg")))
    assert "preprocessor_config.json: image_mean" in told


@pytest.mark.parametrize("arguments", [{"cfg_scale": 1e308}, {"temperature": 1e-308}, {"temperature": 1e308}])
def test_an_argument_of_sampling(arguments):
    (name,) = arguments
    with pytest.raises(ValueError, match=f"^{name} must be "):
        Decoding(gen_length=8, block_length=8, **arguments)
