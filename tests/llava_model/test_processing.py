"""The processor of a trained folder: what a user of transformers does with it gives what the programs write."""

import pytest
from PIL import Image
from transformers import AutoModel, AutoProcessor

import llava.model  # noqa: F401 (registers the model with the Auto classes)
from llava.inference import ReportWriter, Request
from oracles.tiny import widen


@pytest.fixture(scope="module")
def folder(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    tokenizer, model, image_processor = world.build()
    for part in (tokenizer, widen(model), image_processor):
        part.save_pretrained(folder)
    return folder


@pytest.fixture
def images(world):
    return [Image.open(path).convert("RGB") for path in sorted(world.images.rglob("*.jpg"))[:3]]


def test_generate_of_the_processor_writes_what_the_programs_write(folder, images):
    processor, model = AutoProcessor.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    questions = ["<image>\nDescribe it.", "Before <image> and after <image>: what is new?", "Anything?"]
    given = [images[0], images[1:], None]
    batch = processor(images=given, text=questions)
    texts = processor.batch_decode(model.generate(**batch, gen_length=32, seeds=[1, 2, 3]).ids)
    inputs = [images[:1], images[1:], []]
    requests = [Request(found, text, seed) for found, text, seed in zip(inputs, questions, (1, 2, 3), strict=True)]
    assert texts == [response.text for response in ReportWriter(str(folder)).write(requests, gen_length=32)]
    assert any(texts)
    alone = processor(images=images[0], text="Describe it.")
    assert processor.batch_decode(model.generate(**alone, gen_length=32, seeds=[1]).ids) == texts[:1]


def test_it_is_saved_and_found_again(folder, images, tmp_path):
    processor = AutoProcessor.from_pretrained(folder)
    AutoModel.from_pretrained(folder).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again = AutoProcessor.from_pretrained(tmp_path)
    assert type(again) is type(processor)
    one, other = (each(images=images[0], text="Look.") for each in (processor, again))
    assert all((one[name] == other[name]).all() for name in one)


def test_images_and_marks_must_agree(folder, images):
    with pytest.raises(ValueError, match="1 images for 2 <image> marks"):
        AutoProcessor.from_pretrained(folder)(images=images[0], text="<image> or <image>")
