"""What holds of every decoder family: transformers' layers, seen both ways; exact caches, packed training, folders."""

import json
import re

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM

from dllm.core.decoding import Decoding
from dllm.core.objective import target_losses
from dllm.core.patterns import BLOCKWISE, PATTERNS
from dllm.core.sampler import generate
from dllm.pipelines.a2d import FAMILIES, load_a2d
from dllm.training.flops import step_costs
from dllm.training.lora import add_lora, lora_config, merge
from dllm.training.plan import describe_plan
from oracles.batches import pack, random_samples, spy, with_prompts
from oracles.families import VARIANTS, WITH_WINDOWS, exact_softmax, family_model, plain_model
from oracles.models import MASK, STOP, TAIL, left_padded, random_ids
from oracles.sampling import sample
from oracles.text_runs import make_trainer, text_samples
from oracles.training import training_losses

__all__ = ["exact_softmax"]  # a fixture
L = 14
IDS = torch.tensor([random_ids(L, torch.Generator().manual_seed(1))])


def logits_of(model, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(ids).logits


def causal_masks(config, window: bool = True):
    """What the family's own causal model lets its tokens see, by the type of layer if it has several."""
    distance = torch.arange(L)[:, None] - torch.arange(L)
    full = (distance >= 0)[None, None]
    if not hasattr(config, "layer_types"):
        return full
    sliding = full & (distance < config.sliding_window) if window and config.sliding_window else full
    kinds = {"full_attention": full, "sliding_attention": sliding}
    return {kind: kinds[kind] for kind in config.layer_types}


def causal_logits(model, masks) -> torch.Tensor:
    with torch.no_grad():
        return model.head(model.trunk(model.embed(IDS), masks, torch.arange(L)[None]))


@pytest.mark.parametrize("variant", VARIANTS)
def test_with_a_causal_mask_forced_the_logits_are_transformers_own(variant, exact_softmax):
    plain, model = plain_model(variant), family_model(variant)
    model.load_state_dict(plain.state_dict())
    expected = plain(IDS).logits.detach()
    torch.testing.assert_close(causal_logits(model, causal_masks(model.config)), expected, rtol=0, atol=1e-10)
    assert (logits_of(model, IDS) - expected).abs().max() > 1e-2, "and without it they are not"
    if variant in WITH_WINDOWS:
        unlimited = causal_logits(model, causal_masks(model.config, window=False))
        assert (unlimited - expected).abs().max() > 1e-2, "nor without the window"
    if variant == "gemma2":
        for cap in ("attn_logit_softcapping", "final_logit_softcapping"):
            uncapped = family_model(variant, **{cap: None})
            uncapped.load_state_dict(plain.state_dict())
            changed = causal_logits(uncapped, causal_masks(model.config)) - expected
            assert changed.abs().max() > 1e-2, f"nor without {cap}"


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_later_token_changes_every_earlier_logit(variant):
    model, changed = family_model(variant), IDS.clone()
    changed[0, -1] = (changed[0, -1] + 1) % MASK
    difference = (logits_of(model, IDS) - logits_of(model, changed)).abs().amax(-1)[0]
    assert (difference > 1e-4).all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_eager_attention_and_ours_agree(variant):
    """What transformers computes of the same masks; its softmax is in float32."""
    ours, eager = (family_model(variant, **settings) for settings in ({}, {"attn_implementation": "eager"}))
    assert eager.config._attn_implementation == "eager" != ours.config._attn_implementation
    expected = logits_of(eager, IDS)
    torch.testing.assert_close(logits_of(ours, IDS), expected, rtol=0, atol=1e-4)
    eager.config._attn_implementation = None  # as the config of a whole leaves that of its part
    assert torch.equal(logits_of(eager, IDS), expected)


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_packed_training_gives_the_losses_of_sequences_of_their_own(variant, pattern, paired):
    model = family_model(variant, pattern)
    samples = random_samples(model, with_prompts(pattern, [9, 0, 4]), [11, 9, 2], seed=3)
    losses = target_losses(model, *pack(samples), paired)
    for row, sample_ in enumerate(samples):
        expected = training_losses(model, sample_.prompt, sample_.response, sample_.masked, paired)
        for place, loss in expected.items():
            torch.testing.assert_close(losses[row, place], loss, rtol=0, atol=1e-10)


@pytest.mark.parametrize("pattern", ["prefix", *BLOCKWISE])
@pytest.mark.parametrize("variant", VARIANTS)
def test_an_exact_cache_writes_what_none_writes(variant, pattern):
    model = family_model(variant, pattern, unwritable_token_ids=[STOP, TAIL])  # it never stops
    fed = spy(model, "trunk")
    for seed, (lengths, decoding) in enumerate(
        [([9, 2, 12], {}), ([0, 7], {"temperature": 0.9}), ([5], {"factor": 1})]
    ):
        samples = random_samples(model, with_prompts(pattern, lengths), [1] * len(lengths), seed=seed)
        prompts = [each.prompt for each in samples]
        written, tokens = {}, {}
        for cache in ("none", "exact"):
            fed.clear()
            written[cache] = generate(
                model, left_padded(prompts), Decoding(16, 4, cache=cache, **decoding)
            ).ids.tolist()
            tokens[cache] = sum(embeds.shape[1] for embeds, *_ in fed)
        assert written["exact"] == written["none"] and tokens["exact"] < tokens["none"]
    temperature = {k: v for k, v in decoding.items() if k == "temperature"}
    expected, _ = sample(model, prompts[0], 16, 4, factor=1, **temperature)
    assert written["exact"] == [expected], "and what the oracle writes, which knows no cache"


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_plain_folder_and_a_trained_one_load_with_all_weights(variant, tmp_path):
    """Also split into several files, in bf16, and through the Auto classes."""
    plain = plain_model(variant, torch.bfloat16)
    plain.save_pretrained(tmp_path / "plain", max_shard_size="8KB")
    assert len(list((tmp_path / "plain").glob("*.safetensors"))) > 1
    model = load_a2d(str(tmp_path / "plain"))
    assert model.dtype == torch.bfloat16 and type(model) is FAMILIES[VARIANTS[variant][0]]
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert all(torch.equal(weight, plain.state_dict()[name]) for name, weight in model.state_dict().items())
    tied = VARIANTS[variant][1].get("tie_word_embeddings", True)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied

    model.config.attention_pattern, model.config.block_length = "block", 8
    model.save_pretrained(tmp_path / "trained")
    written = json.loads((tmp_path / "trained/config.json").read_text())
    assert (
        written["model_type"]
        == f"a2d-{VARIANTS[variant][0]}"
        == AutoConfig.from_pretrained(tmp_path / "trained").model_type
    )
    for load in (load_a2d, AutoModel.from_pretrained, AutoModelForMaskedLM.from_pretrained):
        again = load(str(tmp_path / "trained"), dtype=torch.bfloat16)
        assert type(again) is type(model)
        assert (again.config.attention_pattern, again.config.block_length) == ("block", 8)
        assert torch.equal(logits_of(again, IDS), logits_of(model, IDS))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_merged_adapter_writes_what_the_adapter_writes(variant):
    adapted = family_model(variant)
    add_lora(adapted, rank=4, alpha=8, dropout=0.0, base="")
    adapter = [weight for name, weight in adapted.named_parameters() if "lora_" in name]
    assert len(adapter) == 2 * 7 * 2, "two for each of seven matrices of two layers"
    for weight in adapter:
        torch.nn.init.normal_(weight, std=0.2)
    merged, prompt = family_model(variant), random_samples(adapted, [6], [1])[0].prompt
    before = generate(merged, left_padded([prompt]), Decoding(16, 4)).ids
    merged.load_state_dict(merge(adapted.state_dict(), lora_config(adapted)))
    written = [generate(model, left_padded([prompt]), Decoding(16, 4)).ids for model in (adapted, merged)]
    assert torch.equal(*written) and not torch.equal(written[0], before)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_step_costs_what_the_matrices_do(variant):
    model = family_model(variant, dtype=torch.float32)
    flops, kept = step_costs(model)
    matrices = sum(weight.numel() for name, weight in model.named_parameters() if "proj" in name)
    width = model.config.num_attention_heads * model.model.layers[0].self_attn.head_dim
    assert flops.per_token == pytest.approx(6 * matrices, rel=1e-2)
    assert flops.per_pair == 3 * 2 * 2 * 2 * width
    assert flops.per_target == 6 * 32 * model.config.vocab_size
    assert kept.per_pair == (2 * 2 * 4 if variant == "gemma2" else 0), (
        "tanh of its scores where they are not capped by FlexAttention"
    )
    assert kept.per_token > 0 and kept.per_target > 0


class Samples(list):
    """Samples that a plan can look at one by one."""


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_is_planned(variant, tmp_path):
    """What `--dry_run` prints."""
    trainer = make_trainer(tmp_path, model=family_model(variant, dtype=torch.float32))
    dataset = trainer.train_dataset.dataset = Samples(text_samples())
    dataset.sizes = [(len(sample["prompt_ids"]), len(sample["response_ids"]), 0) for sample in dataset]
    trainer.lengths = [len(sample["prompt_ids"]) + len(sample["response_ids"]) for sample in dataset]
    plan = describe_plan(trainer)
    weights = sum(weight.numel() for weight in trainer.model.parameters())
    assert re.search(rf"language_model +{weights:,} +{weights:,} +0.1\n", plan)
    assert "samples               16" in plan and "activations" in plan
