"""Guidance that leads away from what a blank film would get."""

import torch

from dllm.core import sampler
from dllm.core.decoding import Decoding
from llava.constants import IMAGE_TOKEN_INDEX
from oracles.tiny import widen

GUIDED = {"cfg_scale": 2.0, "cfg_against": "blank_images"}


def inputs(films: int):
    """Prompts of one film each, and the films."""
    torch.manual_seed(5)
    prompt = [7, 8] + [IMAGE_TOKEN_INDEX] * 4 + list(range(20, 30))
    return torch.tensor([prompt] * films), torch.ones(films, len(prompt)), torch.randn(films, 3, 32, 32)


def test_the_second_prompt_is_the_first_with_blank_films(world):
    _, model, _ = world.build(diffusion={"attention_pattern": "block"})
    ids, valid, films = inputs(3)
    plain = widen(model).generate(ids, valid, films)
    guided = model.generate(ids, valid, films, **GUIDED)
    blank = model.prepare_prompt(ids, valid, torch.zeros_like(films))
    decoding = Decoding.of(model.diffusion, cfg_scale=2.0)
    expected = sampler.generate(model, model.prepare_prompt(ids, valid, films), decoding, unconditional=blank)
    assert torch.equal(guided.ids, expected.ids) and torch.equal(guided.nfe, 2 * guided.steps)
    assert not torch.equal(guided.ids, plain.ids)
    assert not torch.equal(guided.ids, model.generate(ids, valid, films, cfg_scale=2.0).ids)


def test_a_blank_film_is_led_nowhere(world):
    _, model, _ = world.build(diffusion={"attention_pattern": "block"})
    ids, valid, films = inputs(2)
    blank = torch.zeros_like(films)
    plain = widen(model).generate(ids, valid, blank)
    assert torch.equal(model.generate(ids, valid, blank, **GUIDED).ids, plain.ids)


def test_each_film_is_led_away_from_its_own_blank(world):
    _, model, _ = world.build(torch.float64, diffusion={"attention_pattern": "block"})
    ids, valid, films = inputs(3)
    films = films.double()
    together = widen(model).generate(ids, valid, films, **GUIDED).ids
    assert len({tuple(row) for row in together.tolist()}) == 3
    for row in range(3):
        alone = model.generate(*(part[row : row + 1] for part in (ids, valid, films)), **GUIDED).ids
        assert torch.equal(together[row], alone[0])
