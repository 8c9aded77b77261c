"""anyres end to end: samples, losses and reports of films of many tiles and of few."""

import json

import pytest
import torch
from PIL import Image

from dllm.core.noise import ForwardProcess
from llava.constants import IMAGE_TOKEN_INDEX
from llava.data.dataset import ReportCollator, ReportDataset
from llava.data.images import load_image
from llava.inference import ReportWriter, Request
from oracles.films import noise
from oracles.tiny import build_trainer, turns, widen

ALL = "(1x1),...,(6x6)"
SETTINGS = {"image_aspect_ratio": "anyres_max_4", "image_grid_pinpoints": ALL}
SIZES = [(20, 20), (48, 48), (90, 30), (30, 100), (70, 64), (300, 300)]  # 2, 5, 4, 5, 5, 5 tiles of 32 px
TILES = [2, 5, 4, 5, 5, 5]


@pytest.fixture(scope="module")
def films(world, tmp_path_factory):
    """Films of all SIZES, and a LLaVA JSON file with a record of each, one of two films and one of none."""
    folder = tmp_path_factory.mktemp("anyres")
    answer = "The lungs are clear."
    records = []
    for number, size in enumerate(SIZES):
        noise(*size).save(folder / f"{number}.png")
        records.append(
            {"id": f"study {number}", "image": f"{number}.png", "conversations": turns("<image>\nA", answer)}
        )
    two = turns("<image>\nOne.", "Yes.", "Another: <image> now", answer)
    records.append({"id": "two", "image": ["2.png", "0.png"], "conversations": two})
    records.append({"id": "none", "conversations": turns("No film?", answer)})
    (folder / "data.json").write_text(json.dumps(records))
    return folder


@pytest.fixture(scope="module")
def parts(world):
    parts = world.build(diffusion={"gen_length": 32}, **SETTINGS)
    widen(parts[1])
    return parts


@pytest.fixture
def dataset(films, parts):
    tokenizer, model, processor = parts
    return ReportDataset(str(films / "data.json"), str(films), tokenizer, processor, model.config, 4, 1024, False)


def test_samples_have_a_place_for_every_visual_token(dataset):
    shown = [[len(image) for image in sample["images"]] for sample in dataset]
    assert shown == [*([number] for number in TILES), [4], [4, 2], []]
    for sample, tiles in zip(dataset, shown, strict=True):
        assert (sample["prompt_ids"] == IMAGE_TOKEN_INDEX).sum() == 4 * sum(tiles)
        assert all(image.shape[1:] == (3, 32, 32) for image in sample["images"])


def test_lengths_are_the_tokens_of_prompt_and_canvas(dataset, parts):
    collator = ReportCollator(parts[1].config, ForwardProcess())
    for length, sample in zip(dataset.lengths, dataset, strict=True):
        batch = collator([sample | {"position": 0}])
        assert length == batch["input_ids"].shape[1] + batch["labels"].shape[1]
    assert len(set(dataset.lengths)) > 4


def test_every_tile_has_a_key_of_its_own(dataset, parts):
    collator = ReportCollator(parts[1].config, ForwardProcess())
    samples = [dataset[number] | {"position": number} for number in range(len(dataset))]
    batch = collator(samples)
    assert len(batch["images"]) == len(batch["image_keys"]) == len(set(batch["image_keys"].tolist())) == sum(TILES) + 10
    alone = collator(samples[1:2])
    assert torch.equal(batch["image_keys"][2:7], alone["image_keys"])
    assert torch.equal(batch["images"][2:7], alone["images"])


def test_losses_of_rows_with_many_and_few_tiles_equal_those_alone(dataset, parts):
    model = parts[1]
    collator = ReportCollator(model.config, ForwardProcess(seed=2))
    rows = [dataset[number] | {"position": 10 + number} for number in range(len(dataset))]

    def token_losses(chosen):
        inputs = collator(chosen)
        names = ("input_ids", "attention_mask", "images", "labels", "masked", "image_keys")
        return model(**{name: inputs[name] for name in names}).losses

    with torch.no_grad():
        together = token_losses(rows)
        for number, row in enumerate(rows):
            alone = token_losses([row])[0]
            torch.testing.assert_close(together[number, : len(alone)], alone, rtol=0, atol=1e-5)
            assert (alone > 0).all()


@pytest.fixture(scope="module")
def writer(parts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    for part in parts:
        part.save_pretrained(folder)
    return ReportWriter(str(folder))


def requests(films):
    asked = [Request([load_image(films / f"{number}.png")], "<image>\nA", number) for number in range(len(SIZES))]
    return [
        *asked,
        Request([load_image(films / f"{number}.png") for number in (2, 0)], "<image> <image>"),
        Request([], "?"),
    ]


def test_prompts_and_pixels_of_inference_are_those_of_training(films, dataset, writer):
    asked = requests(films)[: len(SIZES)]
    for request, sample in zip(asked, dataset, strict=False):
        input_ids, valid, pixels = writer.inputs([request])
        assert input_ids[0].tolist() == sample["prompt_ids"].tolist() and valid.all()
        assert torch.equal(pixels, sample["images"][0])


def test_reports_of_rows_with_many_and_few_tiles_equal_those_alone(films, writer):
    writer.model.double()  # no near-ties
    asked = requests(films)
    reports = writer.write(asked, gen_length=16, temperature=1.0)
    assert reports == [writer.write([request], gen_length=16, temperature=1.0)[0] for request in asked]
    assert len({report.text for report in reports}) > 4


def test_tiles_change_the_report(films, writer):
    """A small change that the view of the whole hardly shows."""
    film = Image.new("RGB", (64, 64), "grey")
    film.paste(noise(16, 16).point(lambda value: 255 * (value > 127)), (40, 40))
    writer.model.double()
    (tokens,) = writer.model.model(writer.inputs([Request([film], "<image>")])[2].double()).split(5)
    (plain,) = writer.model.model(
        writer.inputs([Request([Image.new("RGB", (64, 64), "grey")], "<image>")])[2].double()
    ).split(5)
    moved = (tokens - plain).abs().amax((1, 2))
    assert moved[4] > 0 and moved[0] > 0 and moved[1] == moved[2] == moved[3] == 0


def test_a_film_that_changed_during_the_run_is_named(films, parts, tmp_path):
    tokenizer, model, processor = parts
    record = {"id": "a", "image": "film.png", "conversations": turns("<image>", "Yes.")}
    (tmp_path / "data.json").write_text(json.dumps([record]))
    noise(90, 30).save(tmp_path / "film.png")
    data = ReportDataset(str(tmp_path / "data.json"), str(tmp_path), tokenizer, processor, model.config, 4, 1024, False)
    noise(20, 20).save(tmp_path / "film.png")
    with pytest.raises(ValueError, match=r"data.json: film.png changed since the run began \(2 tiles\)"):
        data[0]


def test_a_sample_whose_tiles_leave_no_room_is_named_with_the_remedy(films, parts):
    tokenizer, model, processor = parts
    data = [str(films / "data.json"), str(films), tokenizer, processor, model.config]
    longest = max(ReportDataset(*data, 4, 1024, False).lengths)
    ReportDataset(*data, 4, longest, False)
    with pytest.raises(ValueError) as error:
        ReportDataset(*data, 4, longest - 1, False)
    message = str(error.value)
    assert (
        "data.json, record 'two': a prompt of" in message and f"--model_max_length {longest - 1}; raise it" in message
    )
    assert "fewer than its 6 tiles (24 tokens; anyres_max_N, --frames_upbound)" in message and "\n" not in message


def test_the_positions_of_the_model_are_a_limit_too(films, parts, monkeypatch):
    tokenizer, model, processor = parts
    monkeypatch.setattr(model.config.text_config, "max_position_embeddings", 100)
    with pytest.raises(ValueError, match="record 'study 0': .* in the 100 positions of the model; shorten the context"):
        ReportDataset(str(films / "data.json"), str(films), tokenizer, processor, model.config, 4, 1024, False)


def test_a_request_whose_tiles_leave_no_room_is_named_before_anything_is_written(films, writer, monkeypatch):
    monkeypatch.setattr(writer.model, "denoise", None)
    asked = requests(films)[1]
    asked.name = "film 1.png"
    tokens = len(writer.prompt_ids(asked))
    monkeypatch.setattr(writer.config.text_config, "max_position_embeddings", tokens + 15)
    with pytest.raises(
        ValueError, match=f"film 1.png: a prompt of {tokens} tokens leaves no room for gen_length 16"
    ) as error:
        writer.write([asked], gen_length=16)
    assert "give fewer images or frames: 20 of its tokens come from 5 tiles" in str(error.value) and "\n" not in str(
        error.value
    )


def test_the_command_line_saves_what_inference_needs(world, films, tmp_path):
    arguments = {"data_path": films / "data.json", "image_folder": films, "max_steps": 1} | SETTINGS
    trainer = build_trainer(world.arguments(tmp_path, **arguments))
    trainer.train()
    trainer.save_model(str(tmp_path))
    writer = ReportWriter(str(tmp_path))
    assert len(writer.inputs(requests(films)[1:2])[2]) == 5
    assert writer.config.image_grid_pinpoints == ALL
    again = arguments | {"model_name_or_path": tmp_path, "vision_tower": None}
    build_trainer(world.arguments(tmp_path / "more", **again))
    with pytest.raises(
        ValueError, match=r"other settings: --image_grid_pinpoints \(1x1\),...,\(2x2\) \(it has \(1x1\)"
    ):
        build_trainer(world.arguments(tmp_path / "more", **again | {"image_grid_pinpoints": "(1x1),...,(2x2)"}))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"image_aspect_ratio": "anyres"}, "--image_aspect_ratio anyres with --image_grid_pinpoints None: give"),
        ({"image_grid_pinpoints": ALL}, "--image_aspect_ratio square with --image_grid_pinpoints .*: leave them out"),
        ({"image_aspect_ratio": "anyres_max_0"}, "unknown --image_aspect_ratio 'anyres_max_0'; known: square, pad"),
        (
            {"image_aspect_ratio": "anyres", "image_grid_pinpoints": "[[384, 5]]"},
            "no multiple of the tower's 32 pixels",
        ),
    ],
)
def test_a_mistake_on_the_command_line_is_named(world, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        build_trainer(world.arguments(tmp_path / "out", **changes))
