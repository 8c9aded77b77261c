"""A saved model with wide random weights, and a request to it."""

import json

import pytest

from llava.data.images import load_image
from llava.inference import ReportWriter, Request
from oracles.tiny import widen


@pytest.fixture(scope="session")
def folder(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    parts = world.build(mm_resampler_type="masked_drop")
    widen(parts[1])
    for part in parts:
        part.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def writer(folder):
    return ReportWriter(folder)


@pytest.fixture(scope="session")
def request_(world):
    record = json.loads(world.test.read_text())[0]
    return Request([load_image(world.images / record["image"])], record["conversations"][0]["value"])
