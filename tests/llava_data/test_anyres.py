"""anyres: the grid of an image, its tiles, and that counting them by the header and cutting them never disagree."""

import io
import json
import math
import random
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import SiglipImageProcessorPil

from dllm.core.noise import Forward
from llava.constants import IMAGE_TOKEN_INDEX
from llava.data.anyres import best_grid, check_pinpoints, num_views, read_grids
from llava.data.dataset import ReportCollator, ReportDataset
from llava.data.images import image_size, load_image, preprocess_image
from llava.inference import ReportWriter, Request
from oracles.tiny import build_trainer, turns, widen

ALL = "(1x1),...,(6x6)"
SETTINGS = {"image_aspect_ratio": "anyres_max_4", "image_grid_pinpoints": ALL}
SIZES = [(20, 20), (48, 48), (90, 30), (30, 100), (70, 64), (300, 300)]  # 2, 5, 4, 5, 5, 5 tiles of 32 px
TILES = [2, 5, 4, 5, 5, 5]


def test_a_range_is_every_grid_between_its_corners():
    assert read_grids("anyres", "(1x2), ..., (2x3)", 32) == [(1, 2), (1, 3), (2, 2), (2, 3)]
    assert len(read_grids("anyres", ALL, 32)) == 36


@pytest.mark.parametrize("pinpoints", ["[[384, 768], [768, 384]]", "[(384,768),(768,384)]", "((384, 768), (768, 384))"])
def test_a_list_holds_width_and_height_in_pixels(pinpoints):
    assert read_grids("anyres", pinpoints, 384) == [(1, 2), (2, 1)]
    assert read_grids("anyres", pinpoints, 192) == [(2, 4), (4, 2)]


def test_max_n_leaves_grids_of_at_most_n_tiles():
    grids = read_grids("anyres_max_4", ALL, 32)
    assert sorted(grids) == [(1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 2), (3, 1), (4, 1)]
    assert read_grids("square", None, 32) == read_grids("pad", None, 32) == []


@pytest.mark.parametrize(
    "mode, pinpoints, message",
    [
        ("anyres", None, "--image_aspect_ratio anyres with --image_grid_pinpoints None: give e.g."),
        ("anyres_max_4", "", "--image_aspect_ratio anyres_max_4 with --image_grid_pinpoints : give e.g."),
        ("square", ALL, "--image_aspect_ratio square with .*: leave them out"),
        *(("anyres", text, "cannot be read; give e.g.") for text in ("x", "[]", "[1]", "[[1, 2, 3]]", "[[0, 5]]", "5")),
        ("anyres", "[[384.0, 384]]", "cannot be read; give e.g."),
        ("anyres", "[[384, 384]", "cannot be read; give e.g."),
    ],
)
def test_pinpoints_that_do_not_serve_are_named(mode, pinpoints, message):
    with pytest.raises(ValueError, match=message) as error:
        check_pinpoints(mode, pinpoints)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "mode, pinpoints, message",
    [
        ("anyres", "[[384, 700]]", r"\[384, 700\] is no multiple of the tower's 384 pixels"),
        ("anyres_max_3", "[[768, 768]]", "has no grid for anyres_max_3"),
        ("anyres", "(3x3),...,(2x2)", "has no grid for anyres"),
    ],
)
def test_pinpoints_that_do_not_fit_the_tower_or_the_limit_are_named(mode, pinpoints, message):
    with pytest.raises(ValueError, match=message):
        read_grids(mode, pinpoints, 384)


@pytest.mark.parametrize(
    "size, grid",
    [
        ((384, 384), (1, 1)),
        ((512, 512), (2, 2)),
        ((1024, 768), (3, 2)),
        ((2544, 3056), (5, 6)),
        ((336, 1000), (1, 3)),
    ],
)
def test_the_grid_is_the_choice_of_llava(size, grid):
    """What LLaVA-NeXT chooses among 36 grids of 384 pixels, read back from its numbers of visual tokens."""
    assert best_grid(size, read_grids("anyres", ALL, 384), 384) == grid


def literal_choice(size, resolutions):
    """The loop as LLaVA-NeXT describes it: keep the most of the image, then waste the least."""
    best, best_kept, best_wasted = None, 0, math.inf
    for width, height in resolutions:
        scale = min(width / size[0], height / size[1])
        kept = min(int(size[0] * scale) * int(size[1] * scale), size[0] * size[1])
        wasted = width * height - kept
        if kept > best_kept or (kept == best_kept and wasted < best_wasted):
            best, best_kept, best_wasted = (width, height), kept, wasted
    return best


def test_the_grid_is_that_of_the_literal_loop_for_any_size():
    numbers = random.Random(0)
    for mode, side in [("anyres", 32), ("anyres_max_9", 224)]:
        grids = read_grids(mode, ALL, side)
        for _ in range(300):
            size = numbers.randint(16, 8 * side), numbers.randint(16, 8 * side)
            columns, rows = best_grid(size, grids, side)
            assert (columns * side, rows * side) == literal_choice(size, [(c * side, r * side) for c, r in grids])


@pytest.fixture(scope="module")
def processor():
    return SiglipImageProcessorPil(size={"height": 32, "width": 32}, image_mean=[0.5] * 3, image_std=[0.5] * 3)


def noise(width, height):
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def test_tiles_are_the_whole_and_then_the_grid_row_by_row(processor):
    image = noise(96, 64)  # just three by two tiles
    tiles = preprocess_image(image, processor, "anyres", [(3, 2)])
    assert tiles.shape == (7, 3, 32, 32)
    assert torch.equal(tiles[:1], preprocess_image(image, processor, "square"))
    pixels = torch.tensor(np.asarray(image)).permute(2, 0, 1) / 127.5 - 1
    for number, (row, column) in enumerate((row, column) for row in (0, 1) for column in (0, 1, 2)):
        expected = pixels[:, 32 * row : 32 * row + 32, 32 * column : 32 * column + 32]
        torch.testing.assert_close(tiles[1 + number], expected, rtol=0, atol=1e-6)


def test_an_image_of_another_shape_lies_in_the_middle_of_black(processor):
    tiles = preprocess_image(Image.new("RGB", (80, 20), "white"), processor, "anyres", [(2, 1)])
    assert tiles.shape == (3, 3, 32, 32)
    grid = torch.cat([tiles[1], tiles[2]], dim=2)[0]  # [32, 64]: 64 x 16 white pixels
    assert torch.equal(grid[8:24], torch.ones(16, 64)) and torch.equal(grid[:8], -torch.ones(8, 64))
    assert torch.equal(grid[24:], -torch.ones(8, 64))


def test_without_grids_there_is_one_tile(processor):
    image = noise(50, 40)
    assert torch.equal(preprocess_image(image, processor, "anyres"), preprocess_image(image, processor, "square"))


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_orientation(path, image, orientation, where):
    """Saves an image whose metadata say how it is to be turned."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    if where == "header":
        image.save(path, exif=exif)
        return
    xmp = f'<x tiff:Orientation="{orientation}"/>'.encode()
    if where == "XMP of a TIFF":
        image.save(path, tiffinfo={700: xmp})
        return
    image.save(file := io.BytesIO(), "PNG")
    behind = {
        "eXIf behind the pixels": chunk(b"eXIf", exif.tobytes()[6:]),
        "XMP behind the pixels": chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp),
    }[where]
    content, end = file.getvalue()[:-12], file.getvalue()[-12:]
    path.write_bytes(content + behind + end)


KINDS = [
    ("jpg", "header"),
    ("png", "header"),
    ("tif", "header"),
    ("webp", "header"),
    ("tif", "XMP of a TIFF"),
    ("png", "eXIf behind the pixels"),
    ("png", "XMP behind the pixels"),
]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix, where", KINDS)
def test_the_header_tells_the_size_and_tiles_that_the_upright_image_has(
    tmp_path, processor, suffix, where, orientation
):
    path = tmp_path / f"film.{suffix}"
    with_orientation(path, noise(130, 40), orientation, where)
    image = load_image(path)
    assert image.size == ((40, 130) if orientation > 4 else (130, 40))
    assert image_size(path) == image.size
    grids = [(4, 1), (1, 2)]  # another number of tiles if the image lay on its side
    tiles = preprocess_image(image, processor, "anyres", grids)
    assert len(tiles) == num_views(image_size(path), grids, 32) == (3 if orientation > 4 else 5)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_the_size_is_told_without_decoding(tmp_path, monkeypatch, suffix):
    noise(70, 50).save(tmp_path / f"film.{suffix}")
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda _: (_ for _ in ()).throw(AssertionError("decoded")))
    assert image_size(tmp_path / f"film.{suffix}") == (70, 50)


def test_the_size_of_a_file_that_is_no_image_is_not_told(tmp_path):
    (tmp_path / "film.png").write_text("text")
    with pytest.raises(ValueError, match="film.png: not an image file"):
        image_size(tmp_path / "film.png")


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
    collator = ReportCollator(parts[1].config, Forward())
    for length, sample in zip(dataset.lengths, dataset, strict=True):
        batch = collator([sample | {"position": 0}])
        assert length == batch["input_ids"].shape[1] + batch["labels"].shape[1]
    assert len(set(dataset.lengths)) > 4


def test_every_tile_has_a_key_of_its_own(dataset, parts):
    collator = ReportCollator(parts[1].config, Forward())
    samples = [dataset[number] | {"position": number} for number in range(len(dataset))]
    batch = collator(samples)
    assert len(batch["images"]) == len(batch["image_keys"]) == len(set(batch["image_keys"].tolist())) == sum(TILES) + 10
    alone = collator(samples[1:2])
    assert torch.equal(batch["image_keys"][2:7], alone["image_keys"])
    assert torch.equal(batch["images"][2:7], alone["images"])


def test_losses_of_rows_with_many_and_few_tiles_equal_those_alone(dataset, parts):
    model = parts[1]
    collator = ReportCollator(model.config, Forward(seed=2))
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
    monkeypatch.setattr(writer.model, "generate", None)
    asked = requests(films)[1]
    asked.name = "film 1.png"
    tokens = len(writer._prompt(asked))
    monkeypatch.setattr(writer.config.text_config, "max_position_embeddings", tokens + 15)
    with pytest.raises(ValueError, match=f"film 1.png: a prompt of {tokens} tokens, 20 of them from 5 tiles") as error:
        writer.write([asked], gen_length=16)
    assert "give fewer images or frames" in str(error.value) and "\n" not in str(error.value)


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
    with pytest.raises(ValueError, match=r"--image_grid_pinpoints \(1x1\),...,\(2x2\): .* was trained with \(1x1\)"):
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
