"""What is uploaded leaves nothing behind, whatever happens."""

from pathlib import Path

import pytest
from PIL import Image

from llava.web.uploads import MAX_PIXELS, jpeg_uri, take_image


@pytest.fixture
def upload(tmp_path):
    """A file as Gradio leaves it: in a folder of its own."""

    def write(name: str, content: bytes | Image.Image) -> Path:
        path = tmp_path / "hash" / name
        path.parent.mkdir(exist_ok=True)
        content.save(path) if isinstance(content, Image.Image) else path.write_bytes(content)
        return path

    return write


def test_an_image_is_read_and_its_file_is_gone(upload):
    path = upload("film.png", Image.effect_noise((40, 30), 50))
    assert take_image(str(path)).size == (40, 30)
    assert not path.parent.exists()


def test_what_is_no_image_is_one_sentence_without_the_folder_and_its_file_is_gone(upload, tmp_path):
    cases = {
        "not an image file": ("notes.png", b"text"),
        "is empty": ("none.png", b""),
        "DICOM": ("film.dcm", b"text"),
        "shows nothing": ("blank.png", Image.new("L", (64, 64), 9)),
        "are more than 40,000,000": ("large.png", Image.new("1", (MAX_PIXELS // 1000, 1001))),
    }
    for said, (name, content) in cases.items():
        path = upload(name, content)
        with pytest.raises(ValueError, match=said) as error:
            take_image(str(path))
        assert str(error.value).startswith(f"{name}: ") and str(tmp_path) not in str(error.value)
        assert not path.parent.exists()


def test_a_picture_on_the_page_is_small_and_in_the_page():
    assert len(jpeg_uri(Image.effect_noise((2000, 1500), 50).convert("RGB"), 64)) < 5000
