"""Kind 3: sizes are looked at before anything of that size is made."""

import gzip
import tracemalloc
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from dllm.core.decoding import Decoding
from dllm.inference.infill import drafts
from dllm.inference.templates import Template
from faults.test_errors import demo
from llava.data.images import load_image
from llava.radiology.tables import read_rows


@pytest.fixture
def small():
    """No more than 64 MB are taken."""
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64e6, f"{peak:,.0f} bytes"


def deflated_dicom(rows: int, inflated: int) -> bytes:
    """A deflated DICOM image whose header promises rows x rows pixels, with so many bytes of them."""
    import pydicom
    from pydicom.dataset import FileMetaDataset
    from pydicom.filewriter import write_dataset, write_file_meta_info
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    data = pydicom.Dataset()
    data.Rows = data.Columns = rows
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME2", 0
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit = 7
    buffer = pydicom.filebase.DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, data)
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    # Pixel data (7FE0,0010), OB, its length
    parts = [buffer.getvalue() + b"\xe0\x7f\x10\x00OB\x00\x00" + inflated.to_bytes(4, "little")]
    compressed = deflate.compress(parts[0])
    for start in range(0, inflated, 1 << 20):
        compressed += deflate.compress(bytes(min(1 << 20, inflated - start)))
    compressed += deflate.flush()
    meta, head = FileMetaDataset(), BytesIO()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = DeflatedExplicitVRLittleEndian, "1.2.840.10008.5.1.4.1.1.1"
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    write_file_meta_info(head, meta)
    return bytes(128) + b"DICM" + head.getvalue() + compressed


def test_a_deflated_image_that_inflates_without_end(tmp_path, small):
    (tmp_path / "a.dcm").write_bytes(deflated_dicom(64, 1 << 30))
    with pytest.raises(ValueError, match="a.dcm: .*does not end after the 4,096 bytes of pixels that its header"):
        load_image(tmp_path / "a.dcm")


def test_a_deflated_image_that_promises_too_much(tmp_path, small):
    (tmp_path / "a.dcm").write_bytes(deflated_dicom(65535, 1 << 20))
    with pytest.raises(ValueError, match="a.dcm: .*65535 x 65535 pixels"):
        load_image(tmp_path / "a.dcm")


def test_a_table_of_one_line(tmp_path, small):
    with gzip.open(tmp_path / "a.csv.gz", "wb") as file:
        for _ in range(200):
            file.write(b"a" * (1 << 20))
    with pytest.raises(ValueError, match="a.csv.gz: a line has 1,048,576 characters or more"):
        list(read_rows(tmp_path / "a.csv.gz", "copy it again", "study"))


def test_a_blank_of_two_thousand_million_tokens(world, small):
    tokenizer, model, _ = world.build(mm_resampler_type="none")
    lengths, rows = drafts(Template("a ____ b", tokenizer, model.diffusion, 48), [], 2_000_000_000, 48)
    assert max(lengths) < 48 and {len(row) for row in rows} == {48}


@pytest.mark.parametrize("name", ["block_length", "gen_length"])
def test_a_canvas_beyond_the_positions_of_the_model(world, small, name):
    config = world.build(mm_resampler_type="none")[1].diffusion
    with pytest.raises(ValueError, match=f"{name} 1000000000 is more than the [0-9]+ positions of the model"):
        Decoding.of(config, **{name: 10**9})


def test_nothing_but_images_is_opened(tmp_path):
    """PostScript would start Ghostscript, whatever the name of its file says."""
    Image.fromarray(np.arange(4096, dtype=np.uint8).reshape(64, 64)).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.png")
    with pytest.raises(ValueError, match="a.png: not an image file"):
        load_image(tmp_path / "a.png")
    (tmp_path / "b.eps").touch()
    assert demo.image_files(str(tmp_path)) == (["a.png"], 1)
