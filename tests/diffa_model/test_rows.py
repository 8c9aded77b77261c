"""A row depends on its own clip alone, and is what the published loop writes."""

import random

import pytest
import torch

from diffa.constants import AUDIO_TOKEN_INDEX
from diffa.conversation import build_prompt
from diffa.model.audio_encoder import SILENCE, AudioPreprocessor
from dllm.inference.writer import rectangle
from oracles.published_diffa import generate
from oracles.sounds import tone
from oracles.tiny import widen

CLIPS = [tone(0.3, 1), tone(3.0, 2), None, tone(0.1, 3), tone(1.4, 4)]
QUESTIONS = ["Which tone?", "What?", "A question without a clip", "How many tones are there in this one?", "Which?"]


@pytest.fixture(scope="module", params=["bidirectional", "block"])
def listener(request, sounds):
    """(tokenizer, model, its inputs) in float64; the model sees and hears."""
    trained = {"freeze_language_model": False, "diffusion": {"attention_pattern": request.param}}
    tokenizer, model, extractor = sounds.build(torch.float64, **trained)
    return tokenizer, widen(model), AudioPreprocessor(extractor, model.config)


def batch(listener, rows: list[int]) -> tuple:
    """Arguments of `prepare_prompt`."""
    tokenizer, _, prepare = listener
    clips = [CLIPS[row] for row in rows]
    counts = [None if clip is None else prepare.num_tokens(len(clip)) for clip in clips]
    ids = [build_prompt(tokenizer, QUESTIONS[row], count) for row, count in zip(rows, counts, strict=True)]
    valid = rectangle([[1] * len(row) for row in ids], 0, left=True)
    return rectangle(ids, 0, left=True), valid, *prepare.batch([clip for clip in clips if clip is not None])


def test_a_row_does_not_depend_on_its_neighbours(listener):
    _, model, _ = listener
    rows, arguments = list(range(len(CLIPS))), {"temperature": 0.7, "gen_length": 16, "block_length": 4}
    inputs = batch(listener, rows)
    prompts, together = model.prepare_prompt(*inputs), model.generate(*inputs, seeds=rows, **arguments).ids
    longer = [torch.nn.functional.pad(each, (3, 0)) for each in inputs[:2]]
    assert torch.equal(model.generate(*longer, *inputs[2:], seeds=rows, **arguments).ids, together)
    for row in rows:
        inputs = batch(listener, [row])
        prompt = model.prepare_prompt(*inputs)
        assert (prompts.embeds[row, -prompt.embeds.shape[1] :] - prompt.embeds[0]).abs().max() < 1e-10
        alone = model.generate(*inputs, seeds=[row], **arguments).ids
        assert torch.equal(alone[0], together[row]), row
    assert len({tuple(row) for row in together.tolist()}) == len(rows)


def test_the_text_hears_the_clip_and_guidance_leads_away_from_silence(listener):
    _, model, prepare = listener
    ids, valid, audio, frames = batch(listener, [0])
    plain, other = (model.generate(ids, valid, each, frames).ids for each in (audio, audio.flip(-1)))
    assert not torch.equal(plain, other)
    assert torch.equal(prepare.batch([tone(0.5) * 0])[0], torch.full_like(audio, SILENCE))
    guided = model.generate(ids, valid, audio, frames, cfg_scale=2.0, cfg_against="blank_inputs").ids
    assert not torch.equal(plain, guided)
    silent = torch.full_like(audio, SILENCE)
    assert torch.equal(
        model.generate(ids, valid, silent, frames, cfg_scale=2.0, cfg_against="blank_inputs").ids,
        model.generate(ids, valid, silent, frames).ids,
    )


def test_places_and_tokens_must_match(listener):
    ids, valid, audio, frames = batch(listener, [0, 4])
    with pytest.raises(ValueError, match=r"places in the prompts for \d+ tokens of clips"):
        listener[1].prepare_prompt(ids, valid, audio, frames + 80)


def test_tokens_are_those_of_the_published_loop(sounds):
    """100 random cases of four steps' choices; ours never writes a stop token here, after which theirs goes on."""
    tokenizer, model, extractor = sounds.build(torch.float64)
    model, prepare, draw = widen(model), AudioPreprocessor(extractor, model.config), random.Random(5)
    config = model.diffusion
    ends = torch.nn.Linear(config.hidden_size, config.vocab_size, dtype=torch.float64)
    ends.weight, ends.bias.data[:] = model.language_model.lm_head.weight, 0.0
    ends.bias.data[[*config.stop_token_ids, config.tail_token_id]] = -1e4
    model.language_model.lm_head = ends
    unwritable = [config.mask_token_id, *range(config.num_tokens, config.vocab_size)]
    written = set()
    for case in range(100):
        blocks, block_length = draw.choice([1, 2, 4]), draw.choice([2, 4])
        per_block = draw.choice([steps for steps in (1, 2, 4) if steps <= block_length])
        settings = {"gen_length": blocks * block_length, "block_length": block_length}
        clip = tone(draw.uniform(0.1, 1.5), case)
        ids = torch.tensor(build_prompt(tokenizer, f"Question {case}?", prepare.num_tokens(len(clip))))
        audio, frames = prepare.batch([clip])
        steps, valid = blocks * per_block, torch.ones(1, len(ids))
        ours = model.generate(ids[None], valid, audio, frames, gen_steps=steps, **settings)
        tokens, real = model.encode_audio(audio, frames)
        start, end = (ids == AUDIO_TOKEN_INDEX).nonzero()[[0, -1], 0].tolist()
        parts = ids[:start].tolist(), tokens[real].detach(), ids[end + 1 :].tolist()
        theirs = generate(model.language_model, *parts, steps=steps, unwritable=unwritable, **settings)
        assert ours.ids[0].tolist() == theirs, case
        written |= set(theirs)
    assert len(written) > 20


@pytest.mark.real_data
def test_real_clips_go_through_the_whole_path(tmp_path, radiology_data):
    """The clips of `audio`, of three sources and two rates, in the size that Whisper hears: 30 s of 80 bands."""
    from diffa.data.audio import read_audio
    from oracles.sounds import make_world, write_whisper

    world = make_world(tmp_path)
    write_whisper(world.whisper, hidden_size=32, layers=2, num_mel_bins=80, seconds=30)
    tokenizer, model, extractor = world.build()
    prepare, files = AudioPreprocessor(extractor, model.config), sorted((radiology_data / "audio").glob("*.*a*"))
    clips = [read_audio(file) for file in files if file.suffix in (".flac", ".wav")]
    assert len(clips) == 19 and 1.7 < min(map(len, clips)) / 16_000 and max(map(len, clips)) / 16_000 < 11.1
    counts = [prepare.num_tokens(len(clip)) for clip in clips]
    for count, clip in zip(counts, clips, strict=True):
        assert abs(count - 4 - 12.5 * len(clip) / 16_000) < 1
    for start in range(0, 19, 8):
        rows = slice(start, start + 8)
        ids = [build_prompt(tokenizer, "What is said?", count) for count in counts[rows]]
        valid = rectangle([[1] * len(row) for row in ids], 0, left=True)
        written = model.generate(rectangle(ids, 0, left=True), valid, *prepare.batch(clips[rows]), gen_steps=2)
        assert written.ids.shape == (len(ids), 16)
        assert (written.ids < model.diffusion.num_tokens).all()
