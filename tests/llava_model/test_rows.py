"""Rows of a batch are independent: prompts of any length, with two films, one or none, give what each gives alone."""

import json

import pytest
import torch

from dllm.core.cache import CachedTrunk
from dllm.core.decoding import Decoding
from dllm.core.noise import ForwardProcess
from dllm.core.patterns import BLOCKWISE, PATTERNS
from llava.constants import IMAGE_TOKEN_INDEX
from llava.data.dataset import ReportCollator, ReportDataset
from llava.data.images import load_image
from llava.inference import ReportWriter, Request
from llava.model.llava_arch import image_batch
from oracles.tiny import widen

RESAMPLERS = ["qformer", "spatial_pool"]


def samples(world, dtype):
    """(prompt ids, images [n, 3, S, S]) with two films, none, one, and one after a shorter question."""
    torch.manual_seed(6)
    prompts = [
        [7, 8] + [IMAGE_TOKEN_INDEX] * 4 + [9] + [IMAGE_TOKEN_INDEX] * 4 + list(range(20, 60)),
        list(range(100, 117)),
        [7, 8] + [IMAGE_TOKEN_INDEX] * 4 + list(range(60, 75)),
        [7, 8] + [IMAGE_TOKEN_INDEX] * 4 + [9],
    ]
    return [(ids, torch.randn(ids.count(IMAGE_TOKEN_INDEX) // 4, 3, 32, 32, dtype=dtype)) for ids in prompts]


def batch(chosen):
    """input_ids, attention_mask and images of left-padded samples."""
    longest = max(len(ids) for ids, _ in chosen)
    rows = [[0] * (longest - len(ids)) + ids for ids, _ in chosen]
    valid = [[0] * (longest - len(ids)) + [1] * len(ids) for ids, _ in chosen]
    images = image_batch([image for _, image in chosen if len(image)], 32)
    return torch.tensor(rows), torch.tensor(valid), images.to(chosen[0][1].dtype)


def model_inputs(collated):
    """What the model's forward takes of a collated batch."""
    return {name: value for name, value in collated.items() if name not in ("rates", "weights", "tail", "num_inputs")}


@pytest.mark.parametrize("arguments", [{}, {"temperature": 1.0, "cfg_scale": 0.5}], ids=["greedy", "sampled"])
@pytest.mark.parametrize("resampler", RESAMPLERS)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_fp64_rows_are_written_token_for_token_as_alone(world, pattern, resampler, arguments):
    _, model, _ = world.build(torch.float64, diffusion={"attention_pattern": pattern}, mm_resampler_type=resampler)
    rows = samples(world, torch.float64)
    together = widen(model).generate(*batch(rows), seeds=[3, 4, 5, 6], **arguments).ids
    assert together.shape == (4, 48)
    assert len({tuple(row.tolist()) for row in together}) == 4
    for number, row in enumerate(rows):
        alone = model.generate(*batch([row]), seeds=[3 + number], **arguments).ids
        assert together[number].tolist() == alone[0].tolist()


@pytest.mark.parametrize(
    "pattern, cache",
    [*((pattern, "none") for pattern in PATTERNS), *((pattern, "exact") for pattern in ("prefix", *BLOCKWISE))],
)
def test_fp32_logits_of_rows_equal_those_alone(world, pattern, cache):
    _, model, _ = world.build(diffusion={"attention_pattern": pattern})
    widen(model)

    def logits(chosen):
        prompt = model.prepare_prompt(*batch(chosen))
        canvas = torch.full((len(chosen), 48), model.diffusion.mask_token_id)
        context = CachedTrunk(model, prompt, Decoding(gen_length=48, block_length=16, cache=cache))
        context.block_hidden(canvas, 0, 0)
        canvas[:, :16] = torch.arange(150, 166)
        return model.logits(context.block_hidden(canvas, 1, 0)).softmax(dim=-1)  # [B, 16, V]

    with torch.no_grad():
        rows = samples(world, torch.float32)
        together = logits(rows)
        for number, row in enumerate(rows):
            torch.testing.assert_close(together[number], logits([row])[0], rtol=0, atol=1e-5)


def test_losses_of_rows_equal_those_alone(world):
    tokenizer, model, processor = world.build(diffusion={"gen_length": 160})
    widen(model)
    dataset = ReportDataset(str(world.mixed), str(world.images), tokenizer, processor, model.config, 4, 1024)
    collator = ReportCollator(model.config, ForwardProcess(seed=2))
    rows = [dataset[number] | {"position": 10 + number} for number in range(5)]
    assert [len(row["images"]) for row in rows] == [2, 0, 1, 1, 1]

    def token_losses(chosen):
        return model(**model_inputs(collator(chosen))).losses

    with torch.no_grad():
        together = token_losses(rows)
        for number, row in enumerate(rows):
            alone = token_losses([row])[0]
            torch.testing.assert_close(together[number, : len(alone)], alone, rtol=0, atol=1e-5)
            assert not together[number, len(alone) :].any()
            assert (alone > 0).all()


@pytest.mark.parametrize("pattern", PATTERNS)
def test_an_image_is_encoded_once_for_both_views(world, pattern):
    tokenizer, model, processor = world.build(diffusion={"gen_length": 160, "attention_pattern": pattern})
    dataset = ReportDataset(str(world.mixed), str(world.images), tokenizer, processor, model.config, 4, 1024)
    collator = ReportCollator(model.config, ForwardProcess(seed=2))
    inputs = model_inputs(collator([dataset[number] | {"position": number} for number in range(3)]))
    seen = []
    for part in (model.model.vision_tower, model.model.vision_resampler, model.model.mm_projector):
        part.register_forward_hook(lambda module, arguments, output: seen.append(len(output)))
    model(**inputs, paired=True).losses.sum().backward()
    assert len(inputs["images"]) == 3 and seen == [3, 3, 3]


def test_reports_of_a_batch_equal_those_alone(world, tmp_path):
    parts = world.build(version="qwen", image_aspect_ratio="pad")
    widen(parts[1])
    for part in parts:
        part.save_pretrained(tmp_path)
    writer = ReportWriter(str(tmp_path), dtype="float32")
    writer.model.double()  # no near-ties
    requests = []
    for number, record in enumerate(json.loads(world.mixed.read_text())[:4]):
        names = record.get("image", [])
        films = [load_image(world.images / name) for name in ([names] if isinstance(names, str) else names)]
        template = "Heart: ____ Lungs: ____" if number % 2 else ""
        requests.append(Request(films, record["conversations"][0]["value"], number, template))
    assert [len(request.inputs) for request in requests] == [2, 0, 1, 1]
    reports = writer.write(requests, temperature=1.0)
    assert len({report.text for report in reports}) == 4
    assert [report.text.startswith("Heart:") for report in reports] == [False, True, False, True]
    assert reports == [writer.write([request], temperature=1.0)[0] for request in requests]
    assert reports == writer.write(requests[::-1], temperature=1.0)[::-1]


def test_each_film_reaches_its_own_row_in_its_own_place(world):
    _, model, _ = world.build()
    rows = samples(world, torch.float32)
    input_ids, valid, images = batch(rows)
    tokens = model.model(images)
    embeds = model.prepare_prompt(input_ids, valid, images).embeds
    film = 0
    for row in range(len(rows)):
        places = [place for place, token in enumerate(input_ids[row]) if token == IMAGE_TOKEN_INDEX]
        for start in range(0, len(places), 4):
            torch.testing.assert_close(embeds[row, places[start : start + 4]], tokens[film], rtol=0, atol=0)
            film += 1
        text = [place for place, token in enumerate(input_ids[row]) if token >= 0]
        torch.testing.assert_close(embeds[row, text], model.embed(input_ids[row, text]), rtol=0, atol=0)
    assert film == len(images) == 4


def test_a_batch_without_films_still_runs_the_encoder(world):
    _, model, _ = world.build()
    input_ids, valid, images = batch(samples(world, torch.float32)[1:2])
    assert images.shape == (1, 3, 32, 32)
    model.prepare_prompt(input_ids, valid, images).embeds.sum().backward()
    touched = [parameter.grad is not None for parameter in model.model.parameters()]
    assert all(touched)


def test_places_and_visual_tokens_must_match(world):
    _, model, _ = world.build()
    input_ids, valid, images = batch(samples(world, torch.float32)[2:3])
    with pytest.raises(ValueError, match="4 places in the prompts for 8 tokens of images"):
        model.prepare_prompt(input_ids, valid, images.expand(2, -1, -1, -1))
