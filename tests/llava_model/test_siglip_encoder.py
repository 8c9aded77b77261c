"""SigLIP folders as they are published give the features of the selected layer, from no more layers than these need."""

import json

import pytest
import torch
from transformers import SiglipConfig, SiglipModel, SiglipVisionModel

from dllm.pipelines.loading import load_whole
from llava.model.multimodal_encoder.siglip_encoder import SigLipVisionTower, truncated_config

SMALL = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 2}


@pytest.fixture(scope="module", params=["siglip", "siglip_vision_model"])
def published(request, tmp_path_factory):
    """A folder of text and vision model with the short config of the published ones, or of the vision model alone."""
    folder = tmp_path_factory.mktemp(request.param)
    vision = SMALL | {"image_size": 32, "patch_size": 8, "model_type": "siglip_vision_model"}
    torch.manual_seed(0)
    model = SiglipModel(SiglipConfig(text_config=SMALL | {"vocab_size": 50}, vision_config=vision))
    if request.param == "siglip":
        model.save_pretrained(folder)
        config = {"architectures": ["SiglipModel"], "model_type": "siglip", "vision_config": vision, "text_config": {}}
        (folder / "config.json").write_text(json.dumps(config))
    else:
        model.vision_model.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("layer", [-1, -2, -4])
def test_features_are_the_selected_hidden_state(published, layer):
    tower = load_whole(SigLipVisionTower, published, config=truncated_config(published, layer)).eval()
    whole = SiglipVisionModel.from_pretrained(published).eval()
    images = torch.randn(2, 3, 32, 32)
    expected = whole(images, output_hidden_states=True).hidden_states[layer]
    torch.testing.assert_close(tower(images), expected, rtol=0, atol=1e-6)


def test_every_weight_of_the_tower_gets_a_gradient(published):
    tower = load_whole(SigLipVisionTower, published, config=truncated_config(published, -2))
    tower(torch.randn(1, 3, 32, 32)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in tower.parameters())


@pytest.mark.parametrize("layer", [0, 1, -5])
def test_a_layer_that_is_not_there_is_named(published, layer):
    with pytest.raises(ValueError, match=f"--mm_vision_select_layer {layer} does not fit 4 layers"):
        truncated_config(published, layer)


def test_other_models_are_refused(world, tmp_path):
    with pytest.raises(ValueError, match="holds a a2d-qwen3 model; --vision_tower needs SigLIP"):
        truncated_config(str(world.language_model), -2)
    with pytest.raises(ValueError, match="config.json is missing"):
        truncated_config(str(tmp_path), -2)
