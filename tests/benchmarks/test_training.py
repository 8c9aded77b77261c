"""The training benchmark on tiny presets: that it measures what it says, however long it takes."""

import json
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import steps
from benchmarks.presets import TRAINING_PRESETS, Preset, Vision
from benchmarks.steps import BUCKETS, INDEXED, MODES, NAMES, RANDOM, REFERENCE, Bench, Case, literal_counts
from benchmarks.training import main, plan, update
from dllm.core.losses import IGNORE_INDEX

TINY = Preset("tiny", 32, 2, 48, 2, 1, 16, 97, torch.float32, prompt_length=32, gen_length=16, block_length=4)
SEEING = replace(TINY, name="seeing", vision=Vision(16, 8, 16, 1, 32, 1, queries=3))
COLUMNS = (
    "mode pattern exact dtype examples_per_s peak_mb padding_share mfu speedup_vs_reference memory_vs_reference"
).split()
SINGLE = [name for name, mode in MODES.items() if not mode.paired]


@pytest.fixture(scope="module")
def document(tmp_path_factory):
    """What a whole run of the program writes."""
    folder = tmp_path_factory.mktemp("run")
    arguments = ["--json", str(folder / "out.json"), "--plot", str(folder / "out.png"), "--modes", "reference,block"]
    main([*arguments, "--batch", "3", "--repeats", "2"], {"tiny": TINY})
    assert (folder / "out.png").read_bytes().startswith(b"\x89PNG")
    return json.loads((folder / "out.json").read_text())


@pytest.fixture
def bench():
    return Bench(TINY, "cpu", 3)


@pytest.fixture(scope="module")
def seeing_bench():
    return Bench(SEEING, "cpu", 3)


def the_row(document, mode):
    [row] = [row for row in document["rows"] if row["mode"] == mode]
    return row


def test_every_row_has_its_columns(document):
    assert document["preset"] == "tiny" and document["device"] == "cpu" and document["batch"] == 3
    assert document["threads"] == torch.get_num_threads()
    assert (document["prompt_length"], document["response_length"]) == (32, 16) and document["update_seconds"] > 0
    patterns = {row["mode"]: row["pattern"] for row in document["rows"]}
    assert patterns == {
        "reference": "bidirectional",
        "block": "block",
        "reference ragged": "bidirectional",
        "block ragged": "block",
        "block ragged, buckets": "block",
    }
    for row in document["rows"]:
        assert list(row) == COLUMNS
        assert row["exact"] is True and row["dtype"] == "float32" and row["mfu"] is None
        assert row["examples_per_s"] > 0 and row["peak_mb"] > 0
        assert (row["padding_share"] == 0) == ("ragged" not in row["mode"])


def test_ratios_are_to_the_reference_on_the_same_samples(document):
    for row in document["rows"]:
        reference = the_row(document, "reference ragged" if "ragged" in row["mode"] else "reference")
        assert row["speedup_vs_reference"] == pytest.approx(row["examples_per_s"] / reference["examples_per_s"])
        assert row["memory_vs_reference"] == pytest.approx(row["peak_mb"] / reference["peak_mb"])


def test_what_is_measured():
    assert [str(case) for case in plan(["block", "prefix", REFERENCE])] == [
        *("block", "prefix", "reference"),
        *("reference ragged", "block ragged", "block ragged, buckets"),
    ]
    assert [str(case) for case in plan(["prefix"])] == ["prefix"]
    small = TRAINING_PRESETS["small"]
    assert (small.vocab_size, small.prompt_length, small.gen_length) == (151_936, 256, 96)
    assert (small.hidden_size, small.layers) == (256, 6)


FED = {  # tokens of one sample in the trunk, after a prompt of 32 with a response of 16
    REFERENCE: 2 * (32 + 16),
    INDEXED: 2 * (32 + 16),
    "bidirectional": 2 * (32 + 16),
    "prefix": 32 + 2 * 16,
    "block": 32 + 3 * 16,
    "causal_block": 32 + 3 * 16,
    "bidirectional single": 32 + 16,
    "prefix single": 32 + 16,
    "block single": 32 + 2 * 16,
    "causal_block single": 32 + 2 * 16,
}


@pytest.mark.parametrize("mode", NAMES)
def test_a_mode_feeds_trunk_and_head_the_rows_of_its_name(bench, mode):
    """The seed's step puts all rows through the head, a pair every target once, a single view its masked tokens."""
    trunk, head = [], []
    layer = bench.model.model.layers[0]
    layer.register_forward_hook(lambda module, args, out: trunk.append(out.shape[:-1].numel()))
    bench.model.lm_head.register_forward_hook(lambda module, args, out: head.append(out.shape[:-1].numel()))
    bench.step(Case(mode))()
    assert trunk == [3 * FED[mode]]
    [batch] = bench.batches(Case(mode))
    expected = {REFERENCE: trunk[0], INDEXED: trunk[0]} | dict.fromkeys(SINGLE, int(batch["masked"].sum()))
    expected["causal_block single"] = 3 * 16  # the clean copy predicts the others
    assert sum(head) == expected.get(mode, 3 * 16)
    assert 0 < batch["masked"].sum() < 3 * 16
    assert (batch["weights"][~batch["masked"]] == 0).all() == (mode in SINGLE)
    if mode in MODES:
        assert bench.model.diffusion.attention_pattern == mode.split()[0]


@pytest.mark.parametrize(("mode", "rows"), [(REFERENCE, 3 * FED[REFERENCE]), (INDEXED, 3 * 16)])
def test_rows_that_reach_the_cross_entropy(monkeypatch, bench, mode, rows):
    """Of the seed all, of LLaDA-V those that are masked in their view."""
    seen, cross_entropy = [], torch.nn.functional.cross_entropy
    monkeypatch.setattr(
        torch.nn.functional,
        "cross_entropy",
        lambda x, *args, **kw: seen.append(len(x)) or cross_entropy(x, *args, **kw),
    )
    bench.step(Case(mode))()
    assert seen == [rows]


@pytest.mark.parametrize("mode", [REFERENCE, INDEXED])
def test_the_reference_computes_what_ours_does_on_the_same_noise(monkeypatch, seeing_bench, mode):
    """Loss and gradients on ragged samples, once neither can write the mask and the stop token."""
    forbidden = (SEEING.mask_token_id, SEEING.stop_token_id)
    monkeypatch.setattr(steps, "literal_loss", partial(steps.literal_loss, forbidden=forbidden))
    batches = seeing_bench.batches(Case(mode, RANDOM))
    batch = next(batch for batch in batches if not batch["attention_mask"].all())
    assert (batch["labels"] == IGNORE_INDEX).any()
    found, model = {}, seeing_bench.model
    for case in (Case(mode), Case("bidirectional")):
        model.zero_grad()
        loss = seeing_bench.loss(case, batch)
        loss.backward()
        gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
        found[case.mode] = loss.detach(), gradients
    (literal, expected), (packed, gradients) = found[mode], found["bidirectional"]
    torch.testing.assert_close(packed, literal, rtol=1e-5, atol=0)
    assert set(gradients) == set(expected)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("mode", [REFERENCE, *MODES])
def test_every_image_is_encoded_once_and_learns(seeing_bench, mode):
    images, parts = [], seeing_bench.model.model
    hook = parts.vision_tower.register_forward_hook(lambda module, args, out: images.append(len(out)))
    seeing_bench.step(Case(mode))()
    hook.remove()
    assert images == [3]
    [projector, *_] = parts.mm_projector.parameters()
    assert projector.grad.abs().max() > 0


def test_a_step_begins_without_gradients(bench):
    step = bench.step(Case("block", RANDOM))
    first = step()
    assert len(first) == 8 and all(loss > 0 for loss in first)
    gradient = bench.model.lm_head.weight.grad.clone()
    assert torch.equal(torch.stack(step()), torch.stack(first))
    assert torch.equal(bench.model.lm_head.weight.grad, gradient)


def test_ragged_samples_are_the_same_in_random_batches_and_in_buckets(bench):
    assert len({R for _, R in bench.ragged_lengths}) > 5 and max(R for _, R in bench.ragged_lengths) == 16
    assert len({P for P, _ in bench.ragged_lengths}) > 1 and max(P for P, _ in bench.ragged_lengths) <= 32
    contents = []
    for case in (Case(REFERENCE, RANDOM), Case("block", RANDOM), Case("block", BUCKETS)):
        batches = bench.samples(case)
        assert [len(batch) for batch in batches] == [3] * 8
        contents.append(sorted(sample["prompt_ids"] + sample["response_ids"] for batch in batches for sample in batch))
    assert contents[0] == contents[1] == contents[2]
    sizes = [bench.sizes(Case("block", batches)) for batches in (RANDOM, BUCKETS)]
    assert sizes[0]["trunk_tokens"] == sizes[1]["trunk_tokens"] and sizes[0]["samples"] == 24
    padding = [each["padded_tokens"] - each["trunk_tokens"] for each in sizes]
    assert padding[1] < 0.7 * padding[0]


def test_the_seed_writes_no_tail_and_ours_to_the_end_of_the_block(bench):
    """And the seed draws its own noise: one rate per response, which `block` draws for each block."""
    lengths = [len(sample["response_ids"]) for sample in bench.samples(Case("block", RANDOM))[0]]
    assert any(length % 4 for length in lengths)
    targets = {}
    for mode in (REFERENCE, "block", "prefix"):
        batch = bench.batches(Case(mode, RANDOM))[0]
        targets[mode] = (batch["labels"] != IGNORE_INDEX).sum(-1).tolist()
    assert targets == {REFERENCE: lengths, "block": [-(-n // 4) * 4 for n in lengths], "prefix": [16, 16, 16]}
    counts = {}
    for mode in (REFERENCE, "block"):
        batch = bench.batches(Case(mode))[0]
        p = torch.where(batch["masked"], batch["rates"], 1 - batch["rates"])[0]
        counts[mode] = len(p.mul(1e4).round().unique())
    assert counts == {REFERENCE: 1, "block": 4}


def test_what_the_seed_feeds():
    """Prompts of 3 and 5 tokens, responses of 2 and 4: every sequence twice, all padded to 9."""
    batch = {
        "attention_mask": torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]),
        "labels": torch.tensor([[7, 7, IGNORE_INDEX, IGNORE_INDEX], [7, 7, 7, 7]]),
    }
    counts = {name: int(count) for name, count in literal_counts(batch).items()}
    sizes = {"trunk_tokens": 28, "padded_tokens": 36, "attention_pairs": 2 * (25 + 81)}
    assert counts == {"samples": 2, "targets": 6} | sizes


@pytest.mark.parametrize("mode", [REFERENCE, "bidirectional", "prefix", "block"])
def test_operations_are_those_of_the_step(bench, mode):
    """Counted while it runs. Plain attention computes pairs that are masked, and the seed all rows of the head."""
    bench.model.set_attn_implementation("eager")  # whose products are counted
    with FlopCounterMode(display=False) as counter:
        bench.step(Case(mode))()
    sizes, pair, row = bench.sizes(Case(mode)), 3 * 4 * 32 * 2, 3 * 2 * 32 * 97
    wasted = {
        REFERENCE: (sizes["trunk_tokens"] - sizes["targets"]) * row,
        "bidirectional": 0,
        "prefix": (3 * 64**2 - sizes["attention_pairs"]) * pair,
        "block": (3 * 80**2 - sizes["attention_pairs"]) * pair,
    }
    assert bench.operations(Case(mode)) + wasted[mode] == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_the_operations_of_a_model_that_sees_contain_its_images(seeing_bench):
    text = Bench(replace(SEEING, vision=None), "cpu", 3).operations(Case("block"))
    with FlopCounterMode(display=False) as counter:
        parts = seeing_bench.model.model
        parts(torch.zeros(3, 3, 16, 16)).sum().backward()
    assert seeing_bench.operations(Case("block")) - text >= counter.get_total_flops() > 0


def test_the_update_changes_every_weight(bench):
    bench.step(Case("block"))()
    before = {name: parameter.detach().clone() for name, parameter in bench.model.named_parameters()}
    update(bench)()
    assert not [name for name, parameter in bench.model.named_parameters() if torch.equal(parameter, before[name])]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--modes", "block fast"], "unknown mode 'block fast'"),
        (["--batch", "0"], "--batch must be at least 1"),
        (["--repeats", "0"], "--repeats must be at least 1"),
        (["--preset", "seeing", "--prompt_length", "3"], "--prompt_length 3: at least 4"),
        (["--plot", "nowhere/out.png"], "--plot nowhere/out.png: its folder does not exist"),
    ],
)
def test_what_cannot_be_measured_is_one_line(tmp_path, arguments, message):
    file = tmp_path / "out.json"
    with pytest.raises(SystemExit) as exit_:
        main(["--json", str(file), *arguments], {"tiny": TINY, "seeing": SEEING})
    assert str(exit_.value).startswith("training: error: ") and message in str(exit_.value)
    assert "\n" not in str(exit_.value)
    assert not file.exists()
