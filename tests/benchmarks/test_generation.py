"""The generation benchmark on tiny presets: that it measures what it says, however long it takes."""

import json
import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.overrides import TorchFunctionMode

from benchmarks.generation import main, panels, plan, prepare_peaks, warm_up_cases
from benchmarks.measure import _name_lines, interleaved, medians, peak_mb
from benchmarks.presets import PRESETS, Inputs, Preset, Vision, autoregressive_twin, build_model, embedded
from benchmarks.systems import AUTOREGRESSIVE, COMPILED, MODES, NAMES, REFERENCE, UNCACHED, Bench, Case

TINY = Preset("tiny", 32, 2, 48, 2, 1, 16, 97, torch.float32, prompt_length=12, gen_length=16, block_length=4)
SEEING = replace(TINY, name="seeing", vision=Vision(16, 8, 16, 1, 32, 1, queries=3))
OURS = [name for name in MODES if name not in COMPILED]
COLUMNS = (
    "mode pattern exact dtype batch steps seconds_per_report reports_per_s nfe tokens_per_step peak_mb "
    "speedup_vs_reference speedup_vs_autoregressive floor_seconds"
).split()
RUN = [REFERENCE, AUTOREGRESSIVE, "block exact", UNCACHED, "bidirectional fastdllm_dual"]


@pytest.fixture(scope="module")
def document(tmp_path_factory):
    """What a whole run of the program writes."""
    folder = tmp_path_factory.mktemp("run")
    arguments = ["--json", str(folder / "out.json"), "--plot", str(folder / "out.png"), "--modes", ",".join(RUN)]
    main([*arguments, "--batches", "2,1", "--repeats", "2", "--prompt_lengths", "8,12"], {"tiny": TINY})
    assert (folder / "out.png").read_bytes().startswith(b"\x89PNG")
    return json.loads((folder / "out.json").read_text())


@pytest.fixture
def bench():
    return Bench(TINY, "cpu")


@pytest.fixture(scope="module")
def seeing_bench():
    return Bench(SEEING, "cpu")


def the_row(document, mode, batch, steps):
    [row] = [r for r in document["rows"] if (r["mode"], r["batch"], r["steps"]) == (mode, batch, steps)]
    return row


def test_every_row_has_its_columns(document):
    assert document["preset"] == "tiny" and document["device"] == "cpu"
    assert document["threads"] == torch.get_num_threads()
    for row in document["rows"]:
        assert list(row) == COLUMNS + ([] if row["exact"] else ["agreement"])
        assert row["dtype"] == "float32"
        assert row["peak_mb"] > 0
        assert row["seconds_per_report"] * row["reports_per_s"] == pytest.approx(1)
        assert row["nfe"] == row["steps"] and row["tokens_per_step"] == 16 / row["steps"]
        assert (row["floor_seconds"] is None) == (row["mode"] in (REFERENCE, AUTOREGRESSIVE))
    assert [row["mode"] for row in document["rows"] if not row["exact"]] == ["bidirectional fastdllm_dual"] * 3
    assert {row["mode"]: row["pattern"] for row in document["rows"]} == {
        REFERENCE: "bidirectional",
        AUTOREGRESSIVE: "causal",
        "block exact": "block",
        UNCACHED: "bidirectional",
        "bidirectional fastdllm_dual": "bidirectional",
    }


def test_speedups_are_the_ratios_of_the_seconds(document):
    """To the reference in as many steps, which has no batches, and to the autoregressive model at the same batch."""
    for row in document["rows"]:
        reference = the_row(document, REFERENCE, 1, row["steps"])["seconds_per_report"]
        autoregressive = the_row(document, AUTOREGRESSIVE, row["batch"], 16)["seconds_per_report"]
        assert row["speedup_vs_reference"] == pytest.approx(reference / row["seconds_per_report"])
        assert row["speedup_vs_autoregressive"] == pytest.approx(autoregressive / row["seconds_per_report"])


def test_time_against_prompt_length(document):
    points = [(row["mode"], row["prompt_length"], row["batch"], row["steps"]) for row in document["by_prompt_length"]]
    assert points == [
        (mode, length, 1, steps)
        for mode, steps in ((AUTOREGRESSIVE, 16), ("block exact", 4), (UNCACHED, 4))
        for length in (8, 12)
    ]
    # the preset's own length is measured once, for both lists
    assert document["by_prompt_length"][3]["seconds_per_report"] == pytest.approx(
        the_row(document, "block exact", 1, 4)["seconds_per_report"]
    )


def test_the_reference_loop_is_split(document):
    assert set(document["reference_split"]) == {"trunk", "head", "softmax"}
    assert all(seconds > 0 for seconds in document["reference_split"].values())


def test_the_plot_shows_what_was_measured_at_several_sizes(document):
    left, right = panels(document).values()
    assert {mode: [x for x, _ in points] for mode, points in left.items()} == {
        AUTOREGRESSIVE: [1, 2],
        "block exact": [1, 2],
        UNCACHED: [1, 2],
        "bidirectional fastdllm_dual": [1, 2],
        "reference (has no batches)": [1, 2],
    }
    assert left["block exact"][1][1] == the_row(document, "block exact", 2, 4)["seconds_per_report"]
    assert {mode: [x for x, _ in points] for mode, points in right.items()} == dict.fromkeys(
        (AUTOREGRESSIVE, "block exact", UNCACHED), [8, 12]
    )


def test_a_cpu_leaves_out_what_would_take_minutes_and_says_so():
    cases, left_out = plan(PRESETS["small"], "cpu", NAMES, [1, 8, 64])
    assert {case.mode for case in cases} == set(NAMES)
    largest = {(case.mode, case.steps): case.batch for case in cases}
    assert largest["block exact", 128] == 8 and largest["block exact", 32] == largest[AUTOREGRESSIVE, 128] == 64
    assert largest[REFERENCE, 128] == largest[REFERENCE, 32] == largest["block none", 128] == 1
    assert largest["block none", 32] == 8 and Case("block none", 64, 32, 256) in left_out
    everything, nothing = plan(PRESETS["small"], "cuda", NAMES, [1, 8, 64])
    assert nothing == [] and len(everything) == len(cases) + len(left_out) == 2 + 3 + 2 * 3 * len(MODES)


def fed(inputs_embeds=None, input_ids=None, **others) -> int:
    """Tokens [B * n] that a pass of the trunk is fed."""
    return (input_ids if inputs_embeds is None else inputs_embeds[..., 0]).numel()


def test_warm_ups_are_short_and_compiled_ones_complete():
    eager, compiled = Case("block exact", 2, 16, 12), Case("block exact compile", 2, 16, 12)
    assert warm_up_cases(TINY, [eager, replace(eager, steps=4), compiled]) == [replace(eager, steps=4), compiled]


class TrunkAndHead(TorchFunctionMode):
    """Notes how many tokens every pass of the trunk is fed, and how many rows go through the head."""

    def __init__(self, trunk, head):
        super().__init__()
        self.head, self.trunk_rows, self.head_rows = head.weight, [], []
        trunk.register_forward_pre_hook(
            lambda module, args, kwargs: self.trunk_rows.append(fed(**kwargs)), with_kwargs=True
        )

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.nn.functional.linear and any(each is self.head for each in args[:2]):
            (rows,) = (each for each in args[:2] if each is not self.head)  # few rows have the weights before them
            self.head_rows.append(rows.shape[:-1].numel())
        return function(*args, **(kwargs or {}))


FED = {  # tokens of one row at two steps a block, after a prompt of 12
    "bidirectional none": [28] * 8,
    "prefix none": [28] * 8,
    "block none": [16, 16, 20, 20, 24, 24, 28, 28],
    "causal_block none": [16, 16, 20, 20, 24, 24, 28, 28],
    "prefix exact": [28] + [16] * 7,
    "block exact": [16, 4, 8, 4, 8, 4, 8, 4],
    "causal_block exact": [16, 4, 8, 4, 8, 4, 8, 4],
    "bidirectional fastdllm_prefix": [28, 16, 28, 12, 28, 8, 28, 4],
    "bidirectional fastdllm_dual": [28, 4] * 4,
    "bidirectional dllmcache": [28, 4] * 4,
}


@pytest.mark.parametrize("mode", OURS)
def test_a_mode_is_the_pattern_and_the_cache_of_its_name(bench, mode):
    with TrunkAndHead(bench.model.model, bench.model.lm_head) as rows:
        bench.writer(Case(mode, 1, 8, 12))()
    assert rows.trunk_rows == FED[mode]
    assert bench.model.diffusion.attention_pattern == mode.split()[0]


@pytest.mark.parametrize("steps", [16, 8, 4])
@pytest.mark.parametrize("mode", OURS)
def test_the_floor_feeds_trunk_and_head_the_rows_of_the_mode(bench, mode, steps):
    case = Case(mode, 2, steps, 12)
    seen = []
    for call in (bench.writer(case), bench.floor(case)):
        with TrunkAndHead(bench.model.model, bench.model.lm_head) as rows:
            call()
        seen.append((rows.trunk_rows[-steps:], rows.head_rows))
    assert seen[0] == seen[1]
    assert bench.written[case][1] == steps == len(seen[0][0])
    assert seen[0][1] == [2 * (4 - step * 4 // (steps // 4)) for _ in range(4) for step in range(steps // 4)]


@pytest.mark.parametrize("mode", [REFERENCE, AUTOREGRESSIVE, *OURS])
def test_every_report_fills_its_canvas_with_tokens_that_may_be_written(bench, mode):
    case = Case(mode, 1 if mode == REFERENCE else 3, 16, 12)
    bench.writer(case)()
    ids, nfe = bench.written[case]
    assert ids.shape == (case.batch, 16) and nfe == 16
    if mode != AUTOREGRESSIVE:
        assert not torch.isin(ids, torch.tensor([TINY.mask_token_id, TINY.stop_token_id])).any()


def test_only_the_mask_and_the_stop_token_can_never_be_written():
    with torch.no_grad():
        logits = build_model(TINY, "cpu").logits(torch.randn(3, 32))
    assert logits.isneginf().nonzero()[:, 1].tolist() == [TINY.mask_token_id, TINY.stop_token_id] * 3


def test_the_autoregressive_twin_is_causal_and_has_the_same_weights():
    model = build_model(TINY, "cpu")
    twin = autoregressive_twin(TINY, model)
    theirs = dict(twin.named_parameters())
    assert all(parameter.data_ptr() == theirs[name].data_ptr() for name, parameter in model.named_parameters())
    assert not any(buffer.is_meta for buffer in twin.buffers())
    ids = torch.randint(0, 90, (1, 10), generator=torch.Generator().manual_seed(0))
    other = ids.clone()
    other[0, -1] += 1
    with torch.no_grad():
        a, b = (twin(input_ids=each).logits[0] for each in (ids, other))
        assert torch.equal(a[:-1], b[:-1]) and not torch.equal(a[-1], b[-1])
        a, b = (model(each).logits[0] for each in (ids, other))  # ours, which sees all
        assert not torch.isclose(a[0], b[0], atol=1e-6).all()


def test_the_autoregressive_twin_reuses_its_cache(bench):
    with TrunkAndHead(bench.twin.model, bench.twin.lm_head) as rows:
        bench.writer(Case(AUTOREGRESSIVE, 2, 16, 12))()
    assert rows.head_rows == [2] * 16
    assert rows.trunk_rows == [2 * 12] + [2] * 15


@pytest.mark.parametrize("mode", [REFERENCE, AUTOREGRESSIVE, "block exact", UNCACHED])
def test_every_report_pays_for_its_image(seeing_bench, mode):
    images = []
    tower = seeing_bench.model.model.vision_tower
    hook = tower.register_forward_hook(lambda module, args, out: images.append(len(out)))
    case = Case(mode, 1 if mode == REFERENCE else 2, 16, 12)
    calls = [seeing_bench.writer(case)] + ([seeing_bench.floor(case)] if mode in MODES else [])
    assert images == []
    for call in calls:
        call()
        call()
    hook.remove()
    assert images == [case.batch] * 2 * len(calls)


def test_images_change_the_prompt(seeing_bench):
    inputs = Inputs.random(SEEING, 2, 12, "cpu")
    embeds = embedded(seeing_bench.model, inputs).embeds
    changed = embedded(seeing_bench.model, replace(inputs, images=-inputs.images)).embeds
    assert (embeds != changed).any(dim=-1).tolist() == [[True] * 3 + [False] * 9] * 2


def test_agreement_is_the_share_of_tokens_that_the_uncached_model_writes_too(bench):
    case = Case("bidirectional dllmcache", 1, 16, 12)
    bench.written[case] = torch.tensor([[1, 2, 3, 4]]), 4
    bench.written[replace(case, mode=UNCACHED)] = torch.tensor([[1, 2, 3, 5]]), 4
    assert bench.agreement(case) == 0.75
    refreshed = replace(case, steps=4)  # a step per block: every pass is a full one
    bench.writer(refreshed)()
    assert bench.agreement(refreshed) == 1


def test_calls_run_in_turn():
    order = []
    calls = {name: partial(order.append, name) for name in "abc"}
    seconds = interleaved(calls, 2, [partial(order.append, "warm")])
    assert order == ["warm", *"abcabc"]
    assert {name: len(each) for name, each in seconds.items()} == {"a": 2, "b": 2, "c": 2}
    assert medians({"a": [3.0, 1.0, 8.0]}) == {"a": 3.0}


def test_peak_memory_is_what_the_calls_add():
    """What was prepared, and given back before the calls, does not count. Pages of the interpreter come and go."""
    prepare = "len(bytearray(400 * 2**20)) and [lambda: bytearray(50 * 2**20), lambda: bytearray(100 * 2**20)]"
    small, large = peak_mb(eval, prepare)
    assert 49 <= small < 75 and 99 <= large < 125


@pytest.mark.parametrize(("mode", "steps"), [(AUTOREGRESSIVE, 16), ("prefix exact", 4), (REFERENCE, 4)])
def test_memory_is_measured_in_a_step_per_block_or_with_the_whole_cache(monkeypatch, mode, steps):
    cases = []
    monkeypatch.setattr(Bench, "writer", lambda self, case: cases.append(case))
    prepare_peaks(TINY, "cpu", mode, [1, 2])
    assert cases == [Case(mode, 1, steps, 12), Case(mode, 2, steps, 12)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--modes", "block fast"], "unknown mode 'block fast'"),
        (["--batches", "1,x"], "--batches '1,x'"),
        (["--prompt_lengths", "0"], "--prompt_lengths '0'"),
        (["--repeats", "0"], "--repeats must be at least 1"),
        (["--preset", "seeing", "--prompt_lengths", "2,8"], "an image alone is 3 visual tokens"),
        (["--modes", "block none", "--batches", "64"], "--modes block none run at smaller --batches"),
        (["--plot", "nowhere/out.png"], "--plot nowhere/out.png: its folder does not exist"),
    ],
)
def test_what_cannot_be_measured_is_one_line(tmp_path, arguments, message):
    file = tmp_path / "out.json"
    with pytest.raises(SystemExit) as exit_:
        main(["--json", str(file), *arguments], {"tiny": TINY, "seeing": SEEING})
    assert str(exit_.value).startswith("generation: error: ") and message in str(exit_.value)
    assert "\n" not in str(exit_.value)
    assert not file.exists()


def test_names_stand_beside_the_lines_and_not_on_each_other():
    from matplotlib.figure import Figure

    axis = Figure().subplots()
    axis.set(xscale="log", yscale="log", xlim=(1, 64), ylim=(0.2, 30))
    ends = {"long": (64, 1.0), "short": (8, 1.0), "other": (8, 1.02), "far": (64, 9.0)}
    _name_lines(axis, ends, dict.fromkeys(ends, "black"))
    places = {text.get_text(): text.xy for text in axis.texts}
    assert {x for x, _ in places.values()} == {64} and places["long"][1] == pytest.approx(1)
    heights = sorted(math.log(y) / math.log(150) for _, y in places.values())
    assert min(high - low for low, high in zip(heights, heights[1:], strict=False)) > 0.044
