"""Infill: a template's text stays where it is, and the model writes its blanks."""

import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
from transformers import PreTrainedTokenizerFast

from dllm.inference.templates import Template

TEMPLATES = {
    "Findings: ____ Impression: ____": ["Findings:", " Impression:"],
    "____ The heart is normal. __ No effusion.": [" The heart is normal.", " No effusion."],
    "<|im_end|> ____ <|mask|> __": ["<|im_end|>", " <|mask|>"],
    "Findings:\n____\n\nImpression: ___ (unchanged)": ["Findings:\n", "\n\nImpression:", " (unchanged)"],
    " Größe __ × ___ µm _x_ ": ["Größe", " ×", " µm _x_"],
    "____": [],
}


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_report_holds_the_fixed_text_in_its_order(writer, request_, template):
    requests = [replace(request_, template=template, seed=seed) for seed in range(4)]
    reports = writer.write(requests, temperature=1.0, gen_length=64, block_length=8, blank_length=5)
    assert len({report.text for report in reports}) == 4
    texts = TEMPLATES[template]
    for report in reports:
        assert re.search(".*".join(map(re.escape, texts)), report.text, flags=re.DOTALL)
        if texts and template.strip().startswith(texts[0]):
            assert report.text.startswith(texts[0])
        if texts and template.strip().endswith(texts[-1]):
            assert report.text.endswith(texts[-1])


def test_a_template_becomes_a_canvas_of_its_text_and_mask_tokens(writer):
    def ids(text):
        return writer.tokenizer(text, add_special_tokens=False).input_ids

    def canvas(template, *blanks):
        return Template(template, writer.tokenizer, writer.diffusion, 40).canvas(blanks)

    mask, stop = ids("<|mask|>"), ids("<|im_end|>")
    expected = ids("Findings:") + [5, 6] + ids(" No change.") + mask
    assert canvas("Findings: ____ No change. ___", [5, 6]) == expected
    assert canvas("____") == mask
    assert canvas("The heart ____ No effusion.", 3 * mask) == ids("The heart") + 3 * mask + ids(" No effusion.") + stop
    two = canvas("__ a ____ b", [7], [8, 9])
    assert two == [7] + ids(" a") + [8, 9] + ids(" b") + stop


def test_a_blank_before_text_has_at_most_its_length_and_the_last_one_is_open(writer, request_):
    def num_tokens(text):
        return len(writer.tokenizer(text, add_special_tokens=False).input_ids)

    def write(template, blank_length):
        return writer.write([replace(request_, template=template)], blank_length=blank_length, gen_length=48)[0]

    for blank_length in (1, 7):
        report = write("The heart ____ No effusion.", blank_length)
        given = num_tokens("The heart") + num_tokens(" No effusion.")
        assert 1 <= report.steps <= blank_length and report.tokens == given + report.steps + 1
    short, long = (write("The heart ____", blank_length) for blank_length in (1, 40))
    assert short == long and short.tokens > num_tokens("The heart") + 1


def test_a_template_fits_if_each_blank_has_a_token(writer, request_):
    length = len(writer.tokenizer("The heart", add_special_tokens=False).input_ids)
    request = replace(request_, template="The heart ____")
    (report,) = writer.write([request], gen_length=length + 1, block_length=length + 1)
    assert report.text.startswith("The heart") and report.steps == 1
    with pytest.raises(
        ValueError, match=f"the template needs {length + 1} tokens, one for each blank, .* is {length}: "
    ):
        writer.write([request], gen_length=length)


@pytest.mark.parametrize(
    "template, message",
    [
        ("No change.", "template 'No change.' has no blank: put ____"),
        ("a_b", "has no blank"),
        (" ", "has no blank"),
        (
            "a " * 60 + "____ b",
            "needs .* tokens, one for each blank, but gen_length is 48: raise gen_length or shorten",
        ),
    ],
)
def test_a_template_that_cannot_be_filled_in_is_refused_before_any_work(
    writer, request_, monkeypatch, template, message
):
    monkeypatch.setattr(writer.model, "denoise", None)
    with pytest.raises(ValueError, match=message):
        writer.write([request_, replace(request_, template=template)])


@pytest.mark.real_data
def test_text_stays_as_it_is_with_the_tokenizer_of_qwen3(radiology_data):
    file = radiology_data / "qwen3_tokenizer" / "tokenizer.json"
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(file), mask_token="<|mask|>")
    mask, stop, tail = tokenizer.convert_tokens_to_ids(["<|mask|>", "<|im_end|>", "<|endoftext|>"])
    config = SimpleNamespace(mask_token_id=mask, stop_token_ids=[stop, tail], tail_token_id=tail)
    template = "FINDINGS: ____ No effusion.\n\nIMPRESSION:\n1. ____ (2 × 3 cm)."
    ids = Template(template, tokenizer, config, gen_length=100).canvas([[mask] * 2] * 2)
    text = tokenizer.decode([token for token in ids if token != mask])
    assert text == "FINDINGS: No effusion.\n\nIMPRESSION:\n1. (2 × 3 cm).<|im_end|>"
    assert ids.count(mask) == 4
    ids = Template("<|im_start|> <|mask|>____", tokenizer, config, 100).canvas([])
    assert ids.count(mask) == 1 and tokenizer.decode(ids[:-1]) == "<|im_start|> <|mask|>"
