"""Adapters and prompt against the published forms; published weights against ours."""

import re

import pytest
import torch

from diffa.conversation import build_prompt
from diffa.model import convert_pickle
from diffa.model.adapters import AcousticAdapter, SemanticAdapter
from diffa.model.audio_encoder import AudioPreprocessor
from diffa.model.builder import load_pretrained_model
from diffa.model.convert_pickle import convert
from diffa.model.modeling_diffa import DiffaConfig
from oracles.published_diffa import PublishedAdapters, prompt_text
from oracles.sounds import tone

# Whisper-small, LLaDA-8B: the shapes of a checkpoint's weights, by what the reference lists.
SHAPES = {
    "trainable_prompts.weight": [20, 4096],
    "semantic_connector.conv.0.weight": [768, 768, 3],
    "semantic_connector.conv.2.weight": [3072, 768, 3],
    "semantic_connector.linear_connector.0.weight": [768, 3072],
    "semantic_connector.linear_connector.2.weight": [4096, 768],
    "semantic_connector.layernorm.weight": [4096],
    "acoustic_connector.layer_prompts.3": [1, 64, 768],
    "acoustic_connector.layer_weights": [64, 4],
    "acoustic_connector.qformer.layer.1.crossattention.self.key.weight": [768, 768],
    "acoustic_connector.qformer.layer.0.attention.output.LayerNorm.bias": [768],
    "acoustic_connector.qformer.layer.1.intermediate.dense.weight": [3072, 768],
    "acoustic_connector.qformer.layer.0.output.dense.weight": [768, 3072],
    "acoustic_connector.proj.0.weight": [768],
    "acoustic_connector.proj.1.weight": [4096, 768],
}


def sizes(module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def published_for(model) -> PublishedAdapters:
    """Random published adapters of a model's sizes, without dropout."""
    config = model.config
    torch.manual_seed(3)
    adapters = PublishedAdapters(
        config.audio_config.d_model,
        config.audio_config.encoder_attention_heads,
        config.text_config.hidden_size,
        config.prompt_size,
        config.acoustic_layers,
        config.acoustic_intermediate_size,
        config.num_prompts,
    )
    return adapters.double().eval()


def test_the_key_map_covers_every_published_weight_and_all_of_ours():
    with torch.device("meta"):
        published = PublishedAdapters(768, 12, 4096, 64, [2, 5, 8, 11])
        audio = {"d_model": 768, "encoder_attention_heads": 12, "encoder_layers": 12}  # whisper-small; LLaDA's width
        configs = {"audio_config": audio, "text_config": {"model_type": "a2d-llama", "hidden_size": 4096}}
        semantic = SemanticAdapter(DiffaConfig(stage=1, **configs))
        acoustic = AcousticAdapter(DiffaConfig(stage=2, **configs))
    state = {name: torch.empty(weight.shape, device="meta") for name, weight in published.state_dict().items()}
    assert {name: list(state[name].shape) for name in SHAPES} == SHAPES
    state |= {"whisper_model.layers.0.fc1.weight": torch.empty(1), "llm_model.model.norm.weight": torch.empty(1)}
    ours = {"semantic_adapter": semantic, "acoustic_adapter": acoustic}
    ours = {f"{part}.{name}": list(w.shape) for part, each in ours.items() for name, w in each.state_dict().items()}
    for stage, without in ((1, r"acoustic_adapter\."), (2, r"semantic_adapter\.prompts\.")):
        found = {name: list(weight.shape) for name, weight in convert(state, stage).items()}
        assert found == {name: shape for name, shape in ours.items() if not re.match(without, name)}
    assert (sizes(semantic) - 20 * 4096, sizes(acoustic)) == (14_369_280, 22_251_776)


@pytest.mark.parametrize("stage", [1, 2])
def test_the_whole_prompt_is_the_published_one(sounds, stage):
    tokenizer, model, extractor = sounds.build(torch.float64, stage=stage, mask_padding=False)
    published = published_for(model)
    model.load_state_dict(convert(published.state_dict(), stage), strict=False)
    prepare, question = AudioPreprocessor(extractor, model.config), "Which tone? <|eot_id|> <|mdm_mask|> "
    for seconds in (0.1, 0.73, 3.0):
        clip = tone(seconds)
        ids = build_prompt(tokenizer, question, prepare.num_tokens(len(clip)))
        audio, num_frames = prepare.batch([clip])
        with torch.no_grad():
            prompt = model.prepare_prompt(torch.tensor([ids]), torch.ones(1, len(ids)), audio, num_frames)
            states = [state[0] for state in model.audio_encoder(audio)]
            frames = -(-len(clip) // 160)
            tokens = published(states, (frames - 1) // 2 + 1, stage)
            before, after = literal_ids(tokenizer, question)
            expected = torch.cat([model.embed(before), tokens, model.embed(after)])
        assert prompt.embeds.shape[1:] == expected.shape
        assert (prompt.embeds[0] - expected).abs().max() < 1e-9
        assert prompt.positions[0].tolist() == list(range(len(expected)))


def literal_ids(tokenizer, question: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids before and after the audio; what a user says is tokenised by itself, without special tokens."""
    head, tail = (prompt_text("\0", before) for before in (True, False))
    start, end = tail.split("\0")
    encode = lambda text, **how: tokenizer(text, add_special_tokens=False, **how).input_ids  # noqa: E731
    spoken = encode(start + question, split_special_tokens=True)
    assert not set(spoken) & set(tokenizer.all_special_ids)
    return torch.tensor(encode(head)), torch.tensor(spoken + encode(end))


@pytest.mark.real_data
def test_the_text_around_the_audio_is_tokenised_as_in_one_piece(radiology_data):
    """The original tokenises the whole prompt and puts the audio before the token ` <`."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(radiology_data / "qwen3_tokenizer/tokenizer.json"))
    encode = lambda text: tokenizer(text, add_special_tokens=False).input_ids  # noqa: E731
    question = "What is said?"
    before, after = (prompt_text(question, before) for before in (True, False))
    assert encode(before) + encode(after) == encode(before + after)
    assert tokenizer.decode(encode(after)[:1]) == " <"


def test_padding_is_not_heard_unless_published_weights_want_it(sounds):
    _, model, extractor = sounds.build(torch.float64)
    torch.nn.init.normal_(model.acoustic_adapter.proj[1].weight)
    clip, other = tone(0.5), tone(0.5)
    other = torch.cat([torch.tensor(other), torch.full((8000,), 0.2)]).numpy()  # what follows the clip
    prepare = AudioPreprocessor(extractor, model.config)
    audio, frames = prepare.batch([clip, other])
    states = model.audio_encoder(audio)
    mixed = [torch.stack([state[0], torch.cat([state[0, :25], state[1, 25:]])]) for state in states]
    heard = torch.tensor([25, 25])
    first, second = model.acoustic_adapter(mixed, heard)
    assert torch.equal(first, second)
    model.acoustic_adapter.mask_padding = False
    first, second = model.acoustic_adapter(mixed, heard)
    assert (first - second).abs().max() > 1e-3


def test_a_published_checkpoint_becomes_a_folder(sounds, tmp_path, monkeypatch, capsys):
    _, model, _ = sounds.build()
    small = {"prompt_size": 64, "acoustic_layers": [0, 1, 1, 2], "acoustic_intermediate_size": 3072, "num_prompts": 20}
    for name, value in small.items():
        setattr(model.config, name, value)
    published = published_for(model).float()
    torch.save(published.state_dict() | {"llm_model.x": torch.zeros(2)}, tmp_path / "pytorch_model.bin")
    arguments = ["--llm_model", sounds.language_model, "--whisper_model", sounds.whisper, "--out", tmp_path / "out"]
    monkeypatch.setattr("sys.argv", ["convert", "--pickle", str(tmp_path / "pytorch_model.bin"), *map(str, arguments)])
    monkeypatch.setattr("diffa.model.modeling_diffa.default_layers", lambda depth: small["acoustic_layers"])
    convert_pickle.main()
    assert "stage 2" in capsys.readouterr().out
    _, loaded, _ = load_pretrained_model(str(tmp_path / "out"))
    assert not loaded.config.mask_padding and loaded.diffusion.attention_pattern == "bidirectional"
    for name, weight in convert(published.state_dict(), 2).items():
        assert torch.equal(loaded.get_parameter(name), weight), name


def test_a_pickle_that_holds_more_than_tensors_is_refused(tmp_path):
    torch.save({"a": re.compile("x")}, tmp_path / "bad.bin")
    with pytest.raises(ValueError, match=r"bad.bin is no pickle of tensors alone"):
        convert_pickle.read_pickle(str(tmp_path / "bad.bin"))
