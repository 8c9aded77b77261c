"""Resamplers and projectors: what they make of the patches, and how many visual tokens that is."""

from itertools import pairwise

import pytest
import torch

from llava.model.multimodal_projector.builder import PROJECTORS, build_vision_projector
from llava.model.multimodal_resampler.builder import RESAMPLERS, build_vision_resampler, num_image_tokens
from llava.model.multimodal_resampler.masked_drop import MaskedDrop
from llava.model.multimodal_resampler.spatial_pool import SpatialPool


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("name", RESAMPLERS)
def test_visual_tokens_are_as_many_as_the_prompt_has_places_for(world, name, training):
    _, model, _ = world.build(mm_resampler_type=name, mm_spatial_pool_stride=3, mm_mask_drop_ratio=0.7)
    model.train(training)
    tokens = model.model(torch.rand(2, 3, 32, 32), torch.tensor([5, 6]))
    assert tokens.shape == (2, num_image_tokens(model.config, training), model.config.text_config.hidden_size)
    expected = {"qformer": 4, "perceiver": 4, "spatial_pool": 4, "masked_drop": 11 if training else 16, "none": 16}
    assert tokens.shape[1] == expected[name]


@pytest.mark.parametrize("name", RESAMPLERS)
def test_images_go_through_encoder_resampler_and_projector(world, name):
    _, model, _ = world.build(mm_resampler_type=name)
    model.train()  # masked_drop keeps everything in evaluation
    parts, images, keys = model.model, torch.rand(2, 3, 32, 32), torch.tensor([5, 6])
    expected = parts.mm_projector(parts.vision_resampler(parts.vision_tower(images), keys))
    torch.testing.assert_close(parts(images, keys), expected, rtol=0, atol=0)
    if name != "none":
        without = parts.mm_projector(parts.vision_tower(images))
        assert without.shape != expected.shape


@pytest.mark.parametrize("name", ["qformer", "perceiver"])
def test_every_patch_reaches_the_latents(world, name):
    resampler = build_vision_resampler(world.build(mm_resampler_type=name)[1].config).eval()
    patches = torch.randn(1, 16, 64)
    base = resampler(patches)
    for place in range(16):
        changed = patches.clone()
        changed[0, place] += torch.randn(64)
        assert not torch.allclose(resampler(changed), base)


def cells(side, stride):
    """Rows (or columns) of each cell of the pooled grid; the last cell may be smaller."""
    return [range(start, min(start + stride, side)) for start in range(0, side, stride)]


@pytest.mark.parametrize("side, stride", [(4, 2), (5, 2), (7, 3), (4, 1), (3, 3)])
@pytest.mark.parametrize("mode", ["average", "max"])
def test_spatial_pool_equals_a_loop_over_cells(mode, side, stride):
    patches = torch.randn(2, side * side, 3)
    pooled = SpatialPool(3, side, stride, mode)(patches)
    rows = cells(side, stride)
    assert pooled.shape == (2, len(rows) ** 2, 3)
    for image in range(2):
        for row, ys in enumerate(rows):
            for column, xs in enumerate(rows):
                cell = torch.stack([patches[image, y * side + x] for y in ys for x in xs])
                expected = cell.mean(dim=0) if mode == "average" else cell.max(dim=0).values
                torch.testing.assert_close(pooled[image, row * len(rows) + column], expected)


@pytest.mark.parametrize("side, stride", [(4, 2), (5, 2), (7, 3)])
def test_bilinear_pool_equals_a_loop_over_points(side, stride):
    patches = torch.randn(2, side * side, 3)
    pooled = SpatialPool(3, side, stride, "bilinear")(patches)
    small = -(-side // stride)

    def corners(place):  # patches on both sides of the centre of a cell, and the share of the second
        centre = (place + 0.5) * side / small - 0.5
        low = int(centre)
        return (low, 1 - (centre - low)), (min(low + 1, side - 1), centre - low)

    for row in range(small):
        for column in range(small):
            expected = sum(
                weight_y * weight_x * patches[:, y * side + x]
                for y, weight_y in corners(row)
                for x, weight_x in corners(column)
            )
            torch.testing.assert_close(pooled[:, row * small + column], expected)


def kept_patches(drop, keys, patches=16):
    """Which patches a MaskedDrop keeps of each image, by number."""
    numbered = torch.arange(patches, dtype=torch.float32).expand(len(keys), patches)[..., None]
    return drop(numbered, torch.tensor(keys))[..., 0].int().tolist()


def test_masked_drop_keeps_patches_by_the_key_of_their_image():
    drop = MaskedDrop(1, 0.5)
    first, second, again = kept_patches(drop, [11, 12, 11])
    assert first == again != second
    assert kept_patches(drop, [12]) == [second]  # whatever its neighbours
    for kept in (first, second):
        assert len(kept) == 8
        assert all(before < after for before, after in pairwise(kept))


def test_masked_drop_keeps_every_patch_equally_often():
    counts = torch.zeros(16)
    for kept in kept_patches(MaskedDrop(1, 0.25), range(2000)):
        counts[kept] += 1
    assert (counts / 2000 - 0.25).abs().max() < 0.05  # five standard deviations


def test_masked_drop_keeps_all_patches_in_evaluation_and_at_least_one_in_training(world):
    patches = torch.randn(2, 16, 3)
    assert torch.equal(MaskedDrop(3, 0.25).eval()(patches), patches)
    config = world.build(mm_resampler_type="masked_drop", mm_mask_drop_ratio=0.01)[1].config
    assert num_image_tokens(config, training=True) == 1
    assert build_vision_resampler(config)(patches, torch.tensor([1, 2])).shape == (2, 1, 3)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"mm_resampler_type": "x"}, "unknown mm_resampler_type 'x'; known: qformer"),
        ({"mm_projector_type": "x"}, "unknown mm_projector_type 'x'; known: mlp2x_gelu"),
        ({"mm_projector_type": "identity", "mm_qformer_hidden_size": 128}, "identity cannot take width 128 to 64"),
        ({"mm_qformer_depth": 0}, "mm_qformer_depth 0"),
        ({"mm_qformer_latents": 0}, "mm_qformer_latents 0"),
        ({"mm_resampler_type": "perceiver", "mm_perceiver_latents": 0}, "mm_perceiver_latents must be at least 1"),
        ({"mm_resampler_type": "spatial_pool", "mm_spatial_pool_mode": "x"}, "unknown mm_spatial_pool_mode 'x'"),
        ({"mm_resampler_type": "spatial_pool", "mm_spatial_pool_stride": 0}, "stride 0 does not fit a grid of 4 x 4"),
        ({"mm_resampler_type": "spatial_pool", "mm_spatial_pool_stride": 5}, "stride 5 does not fit a grid of 4 x 4"),
        ({"mm_resampler_type": "masked_drop", "mm_mask_drop_ratio": 0.0}, "mm_mask_drop_ratio must be in"),
        ({"mm_resampler_type": "masked_drop", "mm_mask_drop_ratio": 1.5}, "mm_mask_drop_ratio must be in"),
    ],
)
def test_impossible_settings_are_named(world, settings, message):
    with pytest.raises(ValueError, match=message):
        world.build(**settings)


@pytest.mark.parametrize("name", PROJECTORS)
def test_projector_takes_one_width_to_the_other(name):
    features = torch.randn(2, 5, 8)
    projected = build_vision_projector(name, 8, 8 if name == "identity" else 12)(features)
    assert projected.shape == (2, 5, 8 if name == "identity" else 12)
    assert torch.equal(projected, features) == (name == "identity")
