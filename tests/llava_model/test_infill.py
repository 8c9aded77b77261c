"""The length of a blank that text follows: several are tried, and what reads best stays."""

from dataclasses import replace

import pytest
import torch

from dllm.inference import infill
from dllm.inference import writer as writers
from dllm.inference.infill import TRIED, drafts, reads_well
from dllm.inference.templates import Template

TEXT = "The heart ____ No effusion."


@pytest.fixture
def prefix(writer, monkeypatch):
    """The writer with a model that sees the text behind a blank."""
    monkeypatch.setattr(writer.diffusion, "attention_pattern", "prefix")
    return writer


def template(writer, text, gen_length=48):
    return Template(text, writer.tokenizer, writer.diffusion, gen_length)


def filled(writer, request, canvas, **arguments):
    """The ids of one canvas once it is written, and the probability that each was committed with, [48] each."""
    prompt, unconditional = writer.prompts([request], [writer.prompt_ids(request)], writer.model.decoding())
    decoding = writer.model.decoding(**arguments)
    *_, step = writer.model.denoise(prompt, unconditional, decoding, [request.seed], torch.tensor([canvas]))
    return step.canvas[0].tolist(), step.confidence[0].tolist()


def best_blank(writer, request, start, behind, lengths, **arguments):
    """The most confident text between two texts, each length tried on its own, and the mean of its confidence."""
    tried = []
    for length in lengths:
        ids, confidence = filled(
            writer, request, start + [writer.diffusion.mask_token_id] * length + behind, **arguments
        )
        part = slice(len(start), len(start) + length)
        tried.append((torch.tensor(confidence[part]).log().mean().item(), ids[part]))
    return max(tried)[1]


@pytest.mark.parametrize("arguments", [{}, {"threshold": 0.3}, {"temperature": 1.0}, {"remasking": "random"}])
def test_the_length_that_the_model_is_surest_of_stays(prefix, request_, arguments):
    heart, effusion = template(prefix, TEXT).ids
    for seed in range(3):
        request = replace(request_, template=TEXT, seed=seed)
        expected = best_blank(prefix, request, heart, effusion, range(1, 8), **arguments)
        (report,) = prefix.write([request], blank_length=7, **arguments)
        assert report.text == prefix.decode(heart + expected + effusion)
        assert report.tokens == len(heart + expected + effusion)


def test_what_reads_well_comes_before_what_the_model_is_sure_of(prefix, request_, monkeypatch):
    asked = []

    def reads_well(before, text, after):
        asked.append((before, text, after))
        return len(asked) == 5

    monkeypatch.setattr(infill, "reads_well", reads_well)
    (report,) = prefix.write([replace(request_, template=TEXT)], blank_length=7)
    assert {(before, after) for before, _, after in asked} == {("The heart", " No effusion.")} and len(asked) == 7
    assert report.text == f"The heart{asked[4][1]} No effusion." and report.steps == 5


def test_blanks_are_settled_from_the_left(prefix, request_):
    text = "__ heart ____ No effusion. ____"
    request = replace(request_, template=text)
    start, heart, effusion, _ = template(prefix, text).ids
    mask = prefix.diffusion.mask_token_id
    first = best_blank(prefix, request, start, heart + [mask] * 2 + effusion + [mask], range(1, 5))
    second = best_blank(prefix, request, start + first + heart, effusion + [mask], range(1, 5))
    whole = start + first + heart + second + effusion
    rest, _ = filled(prefix, request, whole + [mask])
    (report,) = prefix.write([request], blank_length=4)
    assert report.text == prefix.decode(rest)


def test_a_template_among_others_is_filled_in_as_alone(prefix, request_):
    requests = [
        replace(request_, template=each, seed=seed) for seed, each in enumerate((TEXT, "", "a ____ b __", "__"))
    ]
    together = prefix.write(requests, blank_length=5, temperature=0.7)
    assert together == [prefix.write([each], blank_length=5, temperature=0.7)[0] for each in requests]


@pytest.mark.parametrize("text", [TEXT, TEXT + " ____"])
def test_steps_show_the_text_that_stays_and_its_confidence(prefix, request_, text):
    request = replace(request_, template=text)
    states = [
        (step.canvas[0].tolist(), step.masked[0].tolist(), step.confidence[0].tolist())
        for step in prefix.denoise([request], blank_length=6)
    ]
    (report,) = prefix.write([request], blank_length=6)
    assert len(states) == report.steps
    ids, masked, confidence = states[-1]
    assert prefix.decode(ids) == report.text and not any(masked)
    given = template(prefix, text).ids
    written = [number for number, each in enumerate(confidence[: report.tokens]) if each > 0]
    assert len(written) == report.tokens - sum(map(len, given))
    assert all(each == 0 for each in confidence[: len(given[0])])


def test_lengths_are_spread_up_to_the_bound_or_the_room(writer):
    mask, fits = writer.diffusion.mask_token_id, template(writer, TEXT, 200)
    given = sum(map(len, fits.ids))
    for bound, expected in ((1, [1]), (4, [1, 2, 3, 4]), (TRIED, list(range(1, TRIED + 1)))):
        assert drafts(fits, [], bound, 200)[0] == expected
    lengths, rows = drafts(fits, [], 10 * TRIED, 200)
    assert lengths == [10 * number for number in range(1, TRIED + 1)] and {len(row) for row in rows} == {200}
    assert [row.count(mask) for row in rows] == [200 - given] * TRIED
    assert max(drafts(fits, [], 10**9, 200)[0]) == 200 - given
    two = template(writer, "__ heart __ b", 40)
    for settled in ([], [[5] * 3]):
        for length, row in zip(*drafts(two, settled, 30, 40), strict=True):
            assert len(row) == 40 and row.count(mask) >= length and two.ids[-1][-1] in row


@pytest.mark.parametrize(
    "before, text, after, well",
    [
        ("", "The heart is large.", " No effusion.", True),
        ("", " The heart is", " No effusion.", False),
        ("", "enlarged. Moderate pleural effusion.", " No effusion.", False),
        ("Findings:", " enlarged.", " No effusion.", False),
        ("Clear lungs.", " 2 nodules on the right!", " No effusion.", True),
        ("", ".", " No effusion.", False),
        ("The heart", " is large.", " No effusion.", True),
        ("The heart", " is large", " No effusion.", False),
        ("The heart is", " large", " in size.", True),
        ("The heart is", " large.", " in size.", False),
        ("The heart is", " large.", ". No effusion.", False),
        ("Findings:", " Large heart.", "\n\n1. No effusion.", True),
        ("", "심장이 크다.", " 흉수는 없다.", True),
    ],
)
def test_what_reads_well(before, text, after, well):
    assert reads_well(before, text, after) == well


def test_a_model_that_does_not_see_what_follows_is_told_once(writer, request_, monkeypatch, capsys):
    writers.warn.cache_clear()
    request = replace(request_, template=TEXT)
    for each in (request_, replace(request_, template="Heart: ____"), request, request):
        writer.write([each], blank_length=2)
    said = capsys.readouterr().err.splitlines()
    assert (
        len(said) == 1 and said[0].startswith("warning: a blank does not see") and "ATTENTION_PATTERN=prefix" in said[0]
    )
    writers.warn.cache_clear()
    monkeypatch.setattr(writer.diffusion, "attention_pattern", "prefix")
    writer.write([request], blank_length=2)
    assert not capsys.readouterr().err
