"""Steps as HTML, from a real sampler on a tiny random model."""

import json
import re
from html import unescape

import pytest

from dllm.inference.canvas_html import LEVELS, Painter, State, legend
from llava.data.images import load_image
from llava.inference import ReportWriter, Request
from oracles.tiny import widen


@pytest.fixture(scope="module")
def writer(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("canvas")
    parts = world.build(mm_resampler_type="none")
    widen(parts[1])
    for part in parts:
        part.save_pretrained(folder)
    return ReportWriter(str(folder))


@pytest.fixture
def painter(writer):
    return Painter(writer.tokenizer, writer.diffusion.stop_token_ids, block_length=8)


def state_of(writer, text: str, length: int = 24) -> State:
    """A canvas of a text whose tokens are certain, and masks: `|` is a masked position."""
    ids, masked = [], []
    for part in re.split(r"(\|)", text):
        tokens = [0] if part == "|" else writer.tokenizer(part).input_ids
        ids += tokens
        masked += [part == "|"] * len(tokens)
    filled = length - len(ids)
    masked += [True] * filled
    return State(ids + [0] * filled, masked, [0.0 if each else 0.99 for each in masked])


def request(world, number: int) -> Request:
    record = json.loads(world.test.read_text())[number]
    return Request([load_image(world.images / record["image"])], record["conversations"][0]["value"])


def test_a_state_is_a_copy_of_a_row_of_a_step(writer, world):
    requests = [request(world, number) for number in (0, 1)]
    kept, seen = [], []
    arguments = {"gen_length": 32, "block_length": 8, "threshold": 0.2}
    for step in writer.denoise(requests, **arguments):
        kept.append(State.of(step, row=1))
    writer.write(requests, on_step=lambda ids, todo: seen.append((ids[1].tolist(), todo[1].tolist())), **arguments)
    assert len(kept) > 3 and [(state.ids, state.masked) for state in kept] == seen
    assert all(0 < c <= 1 for c, masked in zip(kept[0].confidence, kept[0].masked, strict=True) if not masked)


def shown(html: str) -> str:
    """The text of some HTML, with a | for every masked position."""
    return unescape(re.sub("<[^>]*>", "", html.replace('<i class="masked"></i>', "|").replace("■", "")))


def test_what_is_written_and_what_is_masked_stand_in_their_order(writer, painter):
    state = state_of(writer, "The heart|is| normal")
    text = shown(painter.html(state))
    assert text.startswith("The heart|is| normal|") and text.count("|") == sum(state.masked)


def test_nothing_is_shown_after_the_stop_token(writer, painter):
    stop = writer.diffusion.stop_token_ids[0]
    state = state_of(writer, "Clear.")
    end = state.masked.index(True)
    ids, masked = list(state.ids), list(state.masked)
    ids[end], masked[end] = stop, False
    html = painter.html(State(ids, masked, state.confidence))
    assert shown(html) == "Clear." and "stop token" in html and "<|" not in html
    assert "stop token" not in painter.html(state)


def test_the_block_at_work_is_framed(writer, painter):
    masked = [False] * 10 + [True] * 14
    state = State(writer.tokenizer("a").input_ids * 24, masked, [0.9] * 24)
    before, frame, after = re.fullmatch(
        r'<div class="canvas">(.*)<span class="work">((?:<span.*?</span>|<i.*?</i>)*)</span>(.*)</div>',
        painter.html(state),
    ).groups()
    assert [part.count("<span") + part.count("<i") for part in (before, frame, after)] == [8, 8, 8]
    assert frame.count("<span") == 2
    assert "work" not in painter.html(State(state.ids, [False] * 24, [0.9] * 24))


def test_colours_go_by_confidence_and_given_text_has_none(writer, painter):
    token = writer.tokenizer("a").input_ids[0]
    confidence = [0.0, 0.1, *LEVELS, 1.0]
    state = State([token] * 8, [False] * 8, confidence)
    kinds = re.findall('<span class="([^"]+)"', painter.html(state))
    assert kinds == ["given", "c0", "c1", "c2", "c3", "c4", "c5", "c5"]
    before = State([token] * 8, [False] * 6 + [True] * 2, confidence)
    assert re.findall('<span class="([^"]+)"', painter.html(state, before))[-3:] == ["c4", "c5 new", "c5 new"]
    assert all(f'class="c{level}"' in legend() for level in range(6))


def test_text_of_a_report_is_text(writer, painter):
    html = painter.html(state_of(writer, "<script>alert('&')</script>", length=40))
    assert "<script" not in html and shown(html).startswith("<script>alert('&')</script>")


def test_a_character_of_several_tokens_is_whole_once_it_is_written(writer, painter):
    ids = writer.tokenizer("größer µ").input_ids
    whole = State(ids, [False] * len(ids), [1.0] * len(ids))
    assert shown(painter.html(whole)) == "größer µ"
    umlaut = next(n for n, token in enumerate(ids) if "\ufffd" in writer.tokenizer.decode([token]))
    half = State(ids, [index == umlaut + 1 for index in range(len(ids))], [1.0] * len(ids))
    assert shown(painter.html(half)).count("|") == 1
