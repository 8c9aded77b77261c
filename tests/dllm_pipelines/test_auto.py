"""Folders of any family: tokenizer, mask token and model together; and what is wrong with a folder, in one line."""

import json
import shutil

import pytest
import torch
from transformers import AutoTokenizer

from dllm.data.conversation import build_prompt
from dllm.pipelines.a2d.tiny import DIALECTS, save_language_model, train_tokenizer
from dllm.pipelines.auto import frozen_pattern, load_text_model, load_tokenizer

TURNS = [{"from": "human", "value": "Say rib."}]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """By its family, a function that makes a folder once: plain, or trained."""
    root, made = tmp_path_factory.mktemp("folders"), {}

    def folder(family: str, plain: bool = False) -> str:
        if (family, plain) not in made:
            torch.manual_seed(0)
            made[family, plain] = str(root / f"{family}-{plain}")
            tokenizer = train_tokenizer(["say rib"], 300, family)
            save_language_model(made[family, plain], tokenizer, 32, 1, family, plain)
        return made[family, plain]

    return folder


def copied(folder: str, tmp_path, **settings) -> str:
    """A copy of a folder with other settings in its config; None drops one."""
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    config = json.loads((copy / "config.json").read_text()) | settings
    (copy / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    return str(copy)


MASKS = {
    "qwen2": ("<|mask|>", "added, in a free row of the embedding"),
    "qwen3": ("<|mask|>", "the tokenizer's own"),
    "llama": ("<|reserved_special_token_0|>", "a reserved one of its vocabulary"),
    "gemma2": ("<mask>", "the tokenizer's own"),
    "gemma3_text": ("<mask>", "the tokenizer's own"),
}


@pytest.mark.parametrize("family", DIALECTS)
def test_a_plain_folder_gets_a_mask_token_within_its_rows_and_keeps_it(family, folders, tmp_path):
    tokenizer, model, origin = load_text_model(folders(family, plain=True), {"attention_pattern": "block"})
    config, (name, where) = model.config, MASKS[family]
    assert origin == f"mask token {name} ({config.mask_token_id}): {where}"
    assert tokenizer.convert_ids_to_tokens(config.mask_token_id) == name and tokenizer.mask_token == name
    rows = len(model.get_input_embeddings().weight)
    assert config.mask_token_id < config.num_tokens == len(tokenizer) <= config.vocab_size == rows
    ends = tokenizer.convert_tokens_to_ids([DIALECTS[family].stop, DIALECTS[family].tail])
    assert config.stop_token_ids == ends and config.tail_token_id == ends[1]
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    _, again, origin = load_text_model(str(tmp_path))
    assert origin.endswith("the tokenizer's own")
    assert again.config.to_dict() == config.to_dict() | {"_name_or_path": str(tmp_path)}


@pytest.mark.parametrize("family", DIALECTS)
def test_a_family_answers_in_its_own_template(family, folders):
    tokenizer, model, _ = load_text_model(folders(family), {"block_length": 4, "gen_length": 8})
    prompt = build_prompt(tokenizer, TURNS)
    assert tokenizer.decode(prompt).count("rib") == 1 and model.config.mask_token_id not in prompt
    written = model.generate(torch.tensor([prompt]))
    assert written.ids.shape == (1, 8) and not (written.ids == model.config.mask_token_id).any()


def test_a_full_embedding_without_a_reserved_token_grows(folders, tmp_path):
    folder = copied(folders("llama", plain=True), tmp_path)
    text = (tmp_path / "copy/tokenizer.json").read_text()
    (tmp_path / "copy/tokenizer.json").write_text(text.replace("reserved_special_token_0", "some_other_token"))
    tokenizer, model, origin = load_text_model(folder)
    before = len(AutoTokenizer.from_pretrained(folder))
    assert origin == f"mask token <|mask|> ({before}): added; the embedding grows by its row"
    assert model.config.vocab_size == len(model.get_input_embeddings().weight) == model.config.num_tokens == before + 1
    assert model.lm_head.weight is model.get_input_embeddings().weight
    model.generate(torch.tensor([build_prompt(tokenizer, TURNS)]), gen_length=4, block_length=4)


def test_more_tokens_than_rows_are_never_written(folders, tmp_path):
    """As of Gemma 3: its tokenizer has a token for images, its model of text has no row for it."""
    folder = copied(folders("gemma3_text", plain=True), tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<image_soft_token>"], special_tokens=True)
    tokenizer.save_pretrained(folder)
    _, model, origin = load_text_model(folder)
    assert origin.endswith("the tokenizer's own")
    assert model.config.num_tokens == model.config.vocab_size == len(tokenizer) - 1


def test_an_unknown_family_is_named(folders, tmp_path):
    folder = copied(folders("llama"), tmp_path, model_type="mamba")
    with pytest.raises(ValueError, match="copy holds a mamba model; a qwen2 or a2d-qwen2, .* folder is needed"):
        load_text_model(folder)
    with pytest.raises(ValueError, match="model folder .*nowhere does not exist"):
        load_text_model(str(tmp_path / "nowhere"))


@pytest.mark.parametrize("plain", [True, False])
def test_a_config_that_transformers_refuses_is_named(plain, folders, tmp_path):
    folder = copied(folders("gemma2", plain), tmp_path, hidden_size="wide")
    with pytest.raises(ValueError, match="copy cannot be loaded .*hidden_size") as error:
        load_text_model(folder)
    assert "\n" not in str(error.value)


def test_a_mask_token_outside_the_vocabulary_is_named(folders, tmp_path):
    folder = copied(folders("llama"), tmp_path, mask_token_id=5000)
    with pytest.raises(ValueError, match="mask_token_id 5000 of config.json is none of its tokenizer's 2"):
        load_text_model(folder)


def test_a_mask_token_that_is_not_the_tokenizers_is_named(folders, tmp_path):
    folder = copied(folders("gemma2"), tmp_path, mask_token_id=7)
    with pytest.raises(ValueError, match="mask_token_id is 7 in config.json and 3 in the tokenizer"):
        load_text_model(folder)


def test_a_tokenizer_without_a_chat_template_is_named(folders, tmp_path):
    folder = copied(folders("llama"), tmp_path)
    (tmp_path / "copy/chat_template.jinja").unlink()
    with pytest.raises(ValueError, match="the tokenizer of .*copy has no chat template"):
        load_tokenizer(folder)
    assert load_tokenizer(folder, chat=False).chat_template is None, "plain text needs none"


def test_a_qwen_tokenizer_without_a_chat_template_has_chatml(folders, tmp_path):
    folder = copied(folders("qwen2"), tmp_path)
    (tmp_path / "copy/chat_template.jinja").unlink()
    tokenizer = load_tokenizer(folder)
    assert tokenizer.decode(build_prompt(tokenizer, TURNS)).startswith("<|im_start|>user\nSay rib.<|im_end|>")


def test_frozen_weights_serve_the_pattern_they_were_trained_with(folders, tmp_path):
    assert frozen_pattern(copied(folders("gemma2"), tmp_path, attention_pattern="prefix")) == "prefix"
    shutil.rmtree(tmp_path / "copy")
    assert frozen_pattern(copied(folders("gemma2"), tmp_path, attention_pattern=None)) == "bidirectional"
    with pytest.raises(ValueError, match="holds a gemma2 model, autoregressive: it must be trained, not frozen"):
        frozen_pattern(folders("gemma2", plain=True))
