"""Self-speculative decoding: the tokens of blocks of 1, in the passes that its drafts need."""

import numpy as np
import pytest
import torch

from dllm.core.decoding import Decoding, token_by_token
from dllm.core.model import check_diffusion_settings
from dllm.core.sampler import finish, generate
from dllm.core.speculative import denoise
from oracles.batches import random_samples
from oracles.families import family_model
from oracles.models import MASK, STOP, TAIL, bias_head, left_padded, tiny_config, tiny_model
from oracles.sampling import block_hidden, sample
from oracles.training import writable_logits

NUM_CASES = 40


def biased_model(seed: int, biases: dict[int, float]):
    model = tiny_model("causal_block", seed=seed)
    bias_head(model, biases)
    return model


def prompts_of(model, lengths: list[int]) -> list[torch.Tensor]:
    return [each.prompt for each in random_samples(model, lengths, [1] * len(lengths), seed=9)]


def speculate(model, prompts: list[torch.Tensor], gen_length: int, size: int, canvas: torch.Tensor | None = None):
    return finish(denoise(model, left_padded(prompts), Decoding(gen_length, size, speculative=True), canvas))


def literal_passes(model, prompt: torch.Tensor, written: list[int], size: int) -> int:
    """Passes of a row, whose tokens are known: one with the prompt, which drafts the first block; one to look at each
    draft, which drafts the next block if it is right; one to draft anew what is left of a block; and one more for a
    block whose last token alone was wrong.
    """
    end = next((n for n, token in enumerate(written, 1) if token in (STOP, TAIL)), len(written))
    done, passes = 0, 1
    for start in range(0, len(written), size):
        while done < end:
            canvas = written[:done] + [MASK] * (len(written) - done)
            hidden = block_hidden(model, prompt, canvas, start // size, size)
            drafted = [int(writable_logits(model, each).argmax()) for each in hidden]
            wrong = [n for n in range(done, start + size) if drafted[n - start] != written[n]]
            passes += 1
            done = wrong[0] + 1 if wrong else start + size
            if not wrong:
                break
            passes += done < end
            if done == start + size:
                break
    return passes


@pytest.mark.parametrize("case", range(NUM_CASES))
def test_a_ragged_batch_gives_the_tokens_of_blocks_of_1_in_the_passes_of_its_drafts(case):
    rng = np.random.default_rng([11, case])
    size, num_blocks = int(rng.integers(1, 7)), int(rng.integers(1, 6))
    model = biased_model(case, {STOP: float(rng.choice([0, 2, 4])), 5: float(rng.choice([0, 4, 9]))})
    prompts = prompts_of(model, rng.integers(1, 8, size=rng.integers(1, 7)).tolist())
    found = speculate(model, prompts, size * num_blocks, size)
    for row, prompt in enumerate(prompts):
        expected, _ = sample(model, prompt, size * num_blocks, 1)
        assert found.ids[row].tolist() == expected
        assert found.lengths[row] == next((i for i, t in enumerate(expected, 1) if t in (STOP, TAIL)), len(expected))
        assert found.steps[row] == literal_passes(model, prompt, expected, size)


@pytest.mark.parametrize("case", range(20))
def test_what_is_given_stays_and_the_rest_is_that_of_blocks_of_1(case):
    """Some tokens given, sometimes whole blocks; the canvas ends within a block."""
    rng = np.random.default_rng([12, case])
    size, gen_length = int(rng.integers(2, 7)), int(rng.integers(2, 24))
    model = biased_model(case, {STOP: float(rng.choice([0, 3]))})
    prompts = prompts_of(model, [3, 1, 6])
    given = rng.integers(0, MASK, size=(3, rng.integers(1, gen_length + 1)))
    given[rng.random(given.shape) < rng.random()] = MASK
    canvas = torch.from_numpy(given)
    found = speculate(model, prompts, gen_length, size, canvas)
    expected = generate(model, left_padded(prompts), Decoding(gen_length, 1), initial_canvas=canvas)
    assert torch.equal(found.ids, expected.ids)
    assert torch.equal(found.ids[:, : canvas.shape[1]][canvas != MASK], canvas[canvas != MASK])


def test_a_draft_that_is_always_right_takes_a_pass_a_block():
    model = biased_model(0, {5: 1e3})
    found = speculate(model, prompts_of(model, [4, 2]), 16, 4)
    assert found.ids.tolist() == [[5] * 16] * 2 and found.steps.tolist() == [1 + 4] * 2 and found.passes == 1


@pytest.mark.parametrize("variant", ["gemma2", "gemma3"])
def test_layers_with_windows_see_what_they_see_in_blocks_of_1(variant):
    model = family_model(variant, "causal_block")
    prompts = prompts_of(model, [5, 2, 9])
    expected = generate(model, left_padded(prompts), Decoding(24, 1))
    assert torch.equal(speculate(model, prompts, 24, 5).ids, expected.ids)


def test_every_pass_shows_what_is_committed_and_how_sure_the_model_was():
    model = biased_model(3, {5: 4.0})
    prompts = prompts_of(model, [4, 2])
    alone = Decoding(12, 4, speculative=True)
    last, passes = None, 0
    for step in denoise(model, left_padded(prompts), alone):
        passes += 1
        assert ((step.canvas == MASK) == step.masked).all()
        assert ((step.confidence > 0) == ~step.masked).all()
        if last is not None:
            assert torch.equal(step.canvas[~last.masked], last.canvas[~last.masked])
        last = type(step)(step.canvas.clone(), step.masked.clone(), step.confidence.clone())
    assert not last.masked.any() and passes == speculate(model, prompts, 12, 4).steps.max()


def test_a_model_can_speculate_by_default():
    model = biased_model(1, {5: 4.0})
    ids = torch.tensor([[1, 2, 3]])
    model.config.decoding_defaults = {"speculative": True}
    check_diffusion_settings(model.config)
    assert model.decoding().speculative and not model.decoding(threshold=None).speculative
    found, slowly = model.generate(ids), model.generate(ids, **token_by_token(model.config))
    assert torch.equal(found.ids, slowly.ids) and found.steps.item() < slowly.steps.item() == 16


@pytest.mark.parametrize("arguments", [{"temperature": 0.7}, {"cfg_scale": 1.0}, {"cache": "none"}, {"compile": True}])
def test_what_a_model_that_speculates_by_default_cannot_draft_it_writes_token_by_token(arguments):
    config = tiny_config("causal_block", decoding_defaults={"speculative": True})
    decoding = Decoding.of(config, **arguments)
    assert not decoding.speculative and decoding.block_length == 1
    assert Decoding.of(config, temperature=0.0).speculative


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"threshold": 0.7}, "threshold and speculative exclude each other"),
        ({"temperature": 0.5}, "leave out temperature"),
        ({"cfg_scale": 1.0}, "leave out cfg_scale"),
        ({"compile": True}, "leave out compile"),
        ({"remasking": "random"}, "leave out remasking"),
        ({"cache": "none"}, "leave out cache"),
    ],
)
def test_what_it_cannot_do_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        Decoding(8, 4, speculative=True, **arguments)
    assert "\n" not in str(error.value)


def test_a_model_of_another_pattern_cannot_speculate():
    with pytest.raises(ValueError, match="speculative needs a model of attention_pattern causal_block, not block"):
        Decoding.of(tiny_config("block"), speculative=True)


def test_a_model_of_next_tokens_alone_cannot_write_blocks():
    with pytest.raises(ValueError, match="block_length 4: this model has learnt next tokens alone"):
        Decoding.of(tiny_config("causal_block", block_length=1), block_length=4)
