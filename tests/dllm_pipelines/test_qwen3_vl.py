"""Qwen3-VL under the core: equality with transformers' own, what it sees, exact caches, packed training, folders."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoProcessor, AutoTokenizer, LlamaConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLForConditionalGeneration

from dllm.core.objective import target_losses
from dllm.core.patterns import BLOCKWISE, PATTERNS
from dllm.inference.writer import Request
from dllm.pipelines.qwen3_vl import Qwen3VLForMaskedLM, Qwen3VLProcessor, Qwen3VLWriter
from dllm.pipelines.qwen3_vl.modeling_qwen3_vl import MERGER, VISION
from dllm.pipelines.qwen3_vl.processing import MARKS, PLACE, build_visual_prompt, image_inputs
from oracles.visual import batch_of, literal_losses, load_exact, picture, prepare, random_prompt, save_tiny

CACHED = ["prefix", *BLOCKWISE]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A plain qwen3_vl folder whose config names the processor, as published ones do."""
    folder = save_tiny(tmp_path_factory.mktemp("tiny"))
    path = f"{folder}/preprocessor_config.json"
    config = json.loads(open(path).read()) | {"processor_class": "Qwen3VLProcessor"}
    open(path, "w").write(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def processor(folder):
    return Qwen3VLProcessor.from_pretrained(folder)


@pytest.fixture(scope="module")
def prompts(processor):
    """Ragged prompts with one, no and two images of different sizes."""
    rng = np.random.default_rng(3)
    found = {}
    while len(found) < 3:
        prompt = random_prompt(processor, rng)
        found.setdefault(len(prompt[1]), prompt)
    return [found[1], found[0], found[2]]


def logits(model, batch, causal: bool):
    """Logits [B, L, V] of a batch's prompts."""
    prompt = model.prepare_prompt(**batch)
    layout = prompt.layout()
    mask = layout.mask("bidirectional")  # [B, 1, L, L]
    if causal:
        mask = mask & torch.ones_like(mask[0, 0]).tril()
    return model.lm_head(model.trunk(prompt.embeds, mask, prompt.positions, **prompt.extras))


@torch.no_grad()
def test_with_a_causal_mask_forced_the_logits_are_those_of_transformers(folder, prompts, processor):
    model = load_exact(folder)
    plain = prepare(Qwen3VLForConditionalGeneration.from_pretrained(folder).double().eval())
    plain.load_state_dict(model.state_dict())
    batch = batch_of(processor, prompts)
    kinds = (batch["input_ids"] == model.config.image_token_id).int()
    expected, valid = plain(**batch, mm_token_type_ids=kinds).logits, batch["attention_mask"].bool()
    torch.testing.assert_close(logits(model, batch, causal=True)[valid], expected[valid], rtol=0, atol=1e-10)
    assert (logits(model, batch, causal=False)[valid] - expected[valid]).abs().max() > 0.1, (
        "and without it they are not"
    )


@torch.no_grad()
def test_all_that_is_there_is_seen(folder, prompts, processor):
    """The logits of the first token change with the last one, with a pixel, and with the deepstack features."""
    model = load_exact(folder)
    batch = batch_of(processor, [prompts[0]])
    before = model(**batch).logits[0]
    changed = batch | {"input_ids": batch["input_ids"].clone()}
    changed["input_ids"][0, -1] += 1
    assert (model(**changed).logits[0, 0] - before[0]).abs().max() > 1e-3
    pixels = batch["pixel_values"].clone()
    pixels[0, 0] += 1
    assert (model(**batch | {"pixel_values": pixels}).logits[0, 0] - before[0]).abs().max() > 1e-6
    prompt = model.prepare_prompt(**batch)
    prompt.extras["deepstack"] = torch.zeros_like(prompt.extras["deepstack"])
    mask = prompt.layout().mask("bidirectional")
    without = model.lm_head(model.trunk(prompt.embeds, mask, prompt.positions, **prompt.extras))[0]
    assert (without[0] - before[0]).abs().max() > 1e-3


@pytest.mark.parametrize("pattern", CACHED)
def test_exact_caches_change_nothing(pattern, folder, processor):
    """Over random cases; a row is written as it is alone, and as with more padding."""
    model, rng = load_exact(folder, pattern), np.random.default_rng(5)
    texts = set()
    for case in range(4):
        prompts = [random_prompt(processor, rng) for _ in range(3)]
        batch = batch_of(processor, prompts)
        arguments = {"seeds": [7, 8, 9], "temperature": 0.8 * (case % 2), "gen_steps": [None, 6][case // 2]}
        written = model.generate(*batch.values(), **arguments).ids
        assert torch.equal(written, model.generate(*batch.values(), cache="none", **arguments).ids)
        alone = batch_of(processor, prompts[1:2], width=batch["input_ids"].shape[1] + 5)
        assert torch.equal(written[1:2], model.generate(*alone.values(), **arguments | {"seeds": [8]}).ids)
        texts.update(map(tuple, written.tolist()))
    assert len(texts) > 9


@pytest.mark.parametrize("pattern", PATTERNS)
def test_packed_training_is_every_view_on_its_own(pattern, folder, prompts, processor):
    model, rng = load_exact(folder, pattern), np.random.default_rng(6)
    R = 9
    response = torch.tensor(rng.integers(20, 200, (3, R)))
    masked = torch.tensor(rng.random((3, R)) < 0.5)
    everywhere = torch.ones_like(masked)
    prompt = model.prepare_prompt(**batch_of(processor, prompts))
    losses = target_losses(model, prompt, response, everywhere, masked, paired=True)
    for row, each in enumerate(prompts):
        one = model.prepare_prompt(**batch_of(processor, [each]))
        expected = literal_losses(model, one, response[row].tolist(), set(masked[row].nonzero().flatten().tolist()))
        torch.testing.assert_close(losses[row], expected, rtol=0, atol=1e-10)
    losses.sum().backward()
    assert all(weight.grad.abs().sum() > 0 for name, weight in model.named_parameters() if name.startswith(MERGER))


def test_pixels_change_the_loss_and_images_are_not_written(folder, prompts, processor):
    model = load_exact(folder)
    batch = batch_of(processor, prompts[:1])
    labels, masked = torch.arange(20, 28)[None], torch.ones(1, 8, dtype=torch.bool)
    losses = model(**batch, labels=labels, masked=masked).losses
    other = model(**batch | {"pixel_values": -batch["pixel_values"]}, labels=labels, masked=masked).losses
    assert (losses - other).abs().max() > 1e-3
    marks = processor.tokenizer.convert_tokens_to_ids(list(MARKS))
    written = model.logits(torch.randn(4, model.diffusion.hidden_size, dtype=torch.float64))
    assert written[:, marks].isneginf().all() and written.isfinite().sum() == 4 * (model.diffusion.num_tokens - 5)


@torch.no_grad()
def test_drafts_give_the_tokens_of_blocks_of_1_at_positions_of_three_axes(folder, prompts, processor):
    model, batch = load_exact(folder, "causal_block"), batch_of(processor, prompts)
    expected = model.generate(*batch.values(), block_length=1)
    assert torch.equal(model.generate(*batch.values(), speculative=True).ids, expected.ids)


@torch.no_grad()
def test_guidance_can_lead_away_from_blank_images_or_from_the_whole_prompt(folder, prompts, processor):
    model, batch = load_exact(folder), batch_of(processor, prompts)
    decoding = model.decoding(cfg_scale=1.0, cfg_against="blank_inputs")
    prompt, blank = model.prompts(*batch.values(), decoding=decoding)
    assert (prompt.embeds - blank.embeds).abs().max() > 1e-3
    assert (prompt.extras["deepstack"] - blank.extras["deepstack"]).abs().max() > 1e-3
    assert prompt.masked(model.embed(torch.tensor(5))).extras["deepstack"].abs().max() == 0
    written = [
        model.generate(*batch.values(), cfg_scale=2.0, cfg_against=name).ids for name in ("blank_inputs", "no_prompt")
    ]
    assert not torch.equal(*written)


@pytest.mark.parametrize("tie", [True, False])
@torch.no_grad()
def test_a_folder_round_trips(tie, tmp_path, prompts, processor):
    """A plain one loads with all its weights, and what is saved through the Auto classes, without remote code."""
    plain = Qwen3VLForConditionalGeneration.from_pretrained(save_tiny(tmp_path / "plain", tie_word_embeddings=tie))
    model = Qwen3VLForMaskedLM.from_pretrained(str(tmp_path / "plain"))
    assert model.state_dict().keys() == plain.state_dict().keys() and ("lm_head" in model.parts) == (not tie)
    assert all(torch.equal(weight, plain.state_dict()[name]) for name, weight in model.state_dict().items())
    model.diffusion.attention_pattern, model.diffusion.block_length = "prefix", 16
    model.save_pretrained(tmp_path / "saved")
    batch = batch_of(processor, prompts)
    for load in (Qwen3VLForMaskedLM.from_pretrained, AutoModelForMaskedLM.from_pretrained):
        again = load(str(tmp_path / "saved"))
        assert type(again) is Qwen3VLForMaskedLM
        assert torch.equal(again(**batch).logits, model(**batch).logits)
        kept = ("attention_pattern", "block_length", "mask_token_id", "num_tokens", "unwritable_token_ids")
        assert all(getattr(again.diffusion, name) == getattr(model.diffusion, name) for name in kept)


def test_freezing_freezes_what_it_names(folder):
    model = Qwen3VLForMaskedLM.from_pretrained(folder, freeze_vision=True, freeze_merger=False)
    frozen = {name for name, weight in model.named_parameters() if not weight.requires_grad}
    assert frozen == {name for name, _ in model.named_parameters() if name.startswith(VISION)} and frozen
    model.freeze_vision_components()
    frozen = {name for name, weight in model.named_parameters() if not weight.requires_grad}
    assert frozen == {name for name, _ in model.named_parameters() if name.startswith("model.visual.")}


def test_prompts_are_those_of_the_chat_template_of_qwen3_vl(processor):
    """Whose rendering of a message of parts is written out here; what a user types is never a mark."""
    sizes = [(48, 32), (16, 16)]
    turns = [{"from": "human", "value": f"{PLACE}What <|image_pad|> is{PLACE} red?"}]
    ids = build_visual_prompt(processor, turns, sizes, system="See.")
    seen = ["<|vision_start|>" + "<|image_pad|>" * n + "<|vision_end|>" for n in (6, 1)]
    tokenizer = processor.tokenizer
    text = "<|im_start|>system\nSee.<|im_end|>\n<|im_start|>user\n{}What @ is{} red?<|im_end|>\n<|im_start|>assistant\n"
    text = text.format(*seen) + "<think>\n\n</think>\n\n"
    before, after = text.split("@")
    typed = [*tokenizer("<").input_ids, *tokenizer("|image_pad|>").input_ids]
    expected = tokenizer(before).input_ids
    assert ids[: len(expected) - 1] == expected[:-1]
    assert tokenizer.decode(ids) == text.replace("@", "<|image_pad|>")
    assert ids.count(tokenizer.convert_tokens_to_ids("<|image_pad|>")) == 7
    assert any(ids[i : i + len(typed)] == typed for i in range(len(ids)))
    inputs = image_inputs(processor, [picture(size, 0) for size in sizes])
    assert inputs["image_grid_thw"].tolist() == [[1, 4, 6], [1, 2, 2]]


def test_autoprocessor_gives_the_processor_of_plain_and_trained_folders(folder, tmp_path):
    assert type(AutoProcessor.from_pretrained(folder)) is Qwen3VLProcessor  # without torchvision
    Qwen3VLForMaskedLM.from_pretrained(folder).save_pretrained(tmp_path)
    AutoProcessor.from_pretrained(folder).save_pretrained(tmp_path)
    again = AutoProcessor.from_pretrained(tmp_path)
    assert type(again) is Qwen3VLProcessor and again.tokenizer.mask_token == "<|mask|>"
    assert again.image_processor.patch_size == 8


def test_it_writes_in_batches_as_alone(folder):
    writer = Qwen3VLWriter(folder)
    requests = [
        Request([picture((32, 16), 1)], "What is in it?", seed=1),
        Request([picture((16, 16), 2), picture((48, 32), 3)], "Is <image> like <image>?", seed=2),
        Request([], "Say red.", seed=3),
    ]
    together = writer.write(requests, gen_length=16, block_length=8, temperature=0.5)
    assert together == [writer.write([each], gen_length=16, block_length=8, temperature=0.5)[0] for each in requests]
    with pytest.raises(ValueError, match="it has 1 images for 2 <image> marks"):
        writer.write([Request(requests[0].inputs, "<image> and <image>")])


def test_a_folder_that_does_not_serve_is_one_line(folder, tmp_path):
    LlamaConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="llama model; a qwen3_vl or a2d-qwen3_vl folder is needed"):
        Qwen3VLForMaskedLM.from_pretrained(str(tmp_path))
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has no preprocessor_config.json"):
        Qwen3VLProcessor.from_pretrained(str(tmp_path))
    model = Qwen3VLForMaskedLM.from_pretrained(folder)
    state = {name: weight for name, weight in model.state_dict().items() if "visual.merger.norm" not in name}
    model.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(ValueError, match="lacks the weight model.visual.merger.norm"):
        Qwen3VLForMaskedLM.from_pretrained(str(tmp_path))
