"""The prompt that training, demo and evaluation share."""

import pytest

from dllm.data.conversation import build_response
from llava.constants import IMAGE_TOKEN_INDEX
from llava.conversation import build_prompt, check_version
from oracles.tiny import turns

# The prompt of the radiology assistant, as the users of the first release know it.
SYSTEM = (
    "You are an assistant in radiology, responsible for analyzing medical imaging studies and generating detailed, "
    "structured, and accurate radiology reports."
)


@pytest.fixture(scope="module")
def tokenizer(world):
    return world.build()[0]


def text_of(tokenizer, ids):
    """The prompt's text, with one `#` for each visual token."""
    text, words = "", []
    for token in [*ids, IMAGE_TOKEN_INDEX]:
        if token != IMAGE_TOKEN_INDEX:
            words.append(token)
            continue
        text += tokenizer.decode(words) + "#"
        words = []
    return text[:-1]


def test_prompt_is_chatml_with_the_system_prompt_and_an_empty_think_block(tokenizer):
    ids = build_prompt(tokenizer, turns("<image>\nWhat is this?"), [3])
    assert text_of(tokenizer, ids) == (
        f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n###\nWhat is this?<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )
    assert ids.count(tokenizer.convert_tokens_to_ids("<|im_start|>")) == 3
    assert ids.count(tokenizer.convert_tokens_to_ids("<think>")) == 1


def test_earlier_turns_come_before_the_question(tokenizer):
    ids = build_prompt(tokenizer, turns("<image>\nWhat is this?", "A film.", "<image> And this?"), [2, 2])
    assert text_of(tokenizer, ids).endswith(
        "<|im_start|>user\n##\nWhat is this?<|im_end|>\n<|im_start|>assistant\nA film.<|im_end|>\n"
        "<|im_start|>user\n## And this?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )


def test_a_template_that_the_tokenizer_brings_is_used(world):
    tokenizer = world.build()[0]
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}[answer]{% if not enable_thinking %}(none){% endif %}{% endif %}"
    )
    ids = build_prompt(tokenizer, turns("a<image>b"), [1])
    assert text_of(tokenizer, ids) == f"[system]{SYSTEM}[user]a#b[answer](none)"


def test_text_of_any_script_survives(tokenizer):
    text = "Größe 2 cm – ohne Befund, 肺野清晰, XXXX"
    assert text in text_of(tokenizer, build_prompt(tokenizer, turns(text), []))
    assert tokenizer.decode(build_response(tokenizer, text, 2)[:-1]) == text


def test_response_is_the_stripped_answer_and_its_stop_token(tokenizer):
    ids = build_response(tokenizer, "  The lungs are clear.\n", 2)
    assert tokenizer.decode(ids[:-1]) == "The lungs are clear."
    assert ids[-1] == 2
    assert tokenizer.decode(ids[-1:]) == "<|im_end|>"


def test_unknown_version_is_named():
    check_version("qwen")
    with pytest.raises(ValueError, match=r"unknown conversation 'x' \(--version, conv_template\); known: qwen"):
        check_version("x")
