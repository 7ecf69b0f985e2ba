import struct

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sightline.data.decode import decode_bytes, decode_image
from sightline.data.image_header import ImageError, header_of_bytes, read_header, read_sizes
from tests.conftest import dataset
from tests.data import zoo

FORMATS = {"JPEG": {}, "PNG": {}, "WEBP": {"lossless": True}, "BMP": {}, "TIFF": {}}


@pytest.mark.parametrize("format", FORMATS)
def test_pixels_are_those_that_were_stored(tmp_path, format):
    path = tmp_path / "any.name"
    path.write_bytes(zoo.image_bytes(format, **FORMATS[format]))
    assert read_header(path).size_hw == (zoo.HEIGHT, zoo.WIDTH)
    decoded = decode_image(path)
    assert decoded.dtype == np.uint8 and decoded.flags.c_contiguous
    # JPEG loses a little; the others nothing. RGB order shows, since the channels differ by far more.
    difference = np.abs(decoded.astype(int) - zoo.pixels())
    assert difference.max() <= (20 if format == "JPEG" else 0)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_turns_pixels_and_size_as_a_viewer_would(format, orientation):
    data = zoo.image_bytes(format, orientation=orientation, **FORMATS[format])
    stored = zoo.pixels().astype(int)
    # CIPA DC-008: where row 0 and column 0 of the stored pixels are to be seen.
    seen = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.transpose(1, 0, 2),
        6: stored[::-1].transpose(1, 0, 2),
        7: stored[::-1, ::-1].transpose(1, 0, 2),
        8: stored[:, ::-1].transpose(1, 0, 2),
    }[orientation]
    assert header_of_bytes(data, "x").size_hw == seen.shape[:2]
    decoded = decode_bytes(data, "x")
    assert decoded.shape == seen.shape
    assert np.abs(decoded - seen).max() <= (20 if format == "JPEG" else 0)


PIXEL_TYPES = {
    "PNG": ("L", "P", "RGBA", "1", "I;16"),
    "JPEG": ("L", "1", "CMYK"),
    "TIFF": ("L", "P", "RGBA", "1", "CMYK", "I;16"),
}


@pytest.mark.parametrize("format, mode", [(format, mode) for format, modes in PIXEL_TYPES.items() for mode in modes])
def test_every_pixel_type_becomes_three_channels(format, mode):
    decoded = decode_bytes(zoo.image_bytes(format, mode=mode), "x")
    assert decoded.shape == (zoo.HEIGHT, zoo.WIDTH, 3)


@pytest.mark.parametrize("orientation", [1, 6])
def test_out_is_filled_and_returned(orientation):
    data = zoo.image_bytes(orientation=orientation)
    expected = decode_bytes(data, "x")
    out = np.zeros_like(expected)
    assert decode_bytes(data, "x", out=out) is out
    np.testing.assert_array_equal(out, expected)


def test_out_may_be_a_part_of_a_larger_array():
    slab = np.zeros((2, zoo.HEIGHT, zoo.WIDTH, 3), dtype=np.uint8)
    decode_bytes(zoo.image_bytes(), "x", out=slab[1])
    assert slab[1].any() and not slab[0].any()


@pytest.mark.parametrize("shape, dtype", [((10, 10, 3), np.uint8), ((zoo.HEIGHT, zoo.WIDTH, 3), np.float32)])
def test_out_of_the_wrong_shape_or_type_is_refused(shape, dtype):
    with pytest.raises(ValueError, match="out: expected"):
        decode_bytes(zoo.image_bytes(), "x", out=np.zeros(shape, dtype))


BOMBS = {
    "PNG": zoo.png_bomb(),
    "JPEG": zoo.jpeg_bomb(),
    "BMP": zoo.bmp_bomb(),
    "WebP": zoo.webp_bomb(),
    "TIFF": zoo.tiff_bomb(),
    "144 megapixels": zoo.png_bomb(12_000, 12_000),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_by_its_header_before_any_decoder_sees_it(name, monkeypatch):
    monkeypatch.setattr(cv2, "imdecode", None)
    with pytest.raises(ImageError, match=r"x\.png: .* megapixels; at most 100 are decoded") as caught:
        decode_bytes(BOMBS[name], "x.png")
    assert caught.value.kind == "too_large_image"


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("share", [0.4, 0.9, 0.999])
def test_a_file_that_is_cut_off_is_named(tmp_path, format, share):
    data = zoo.image_bytes(format, **FORMATS[format])
    path = tmp_path / "cut.img"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ImageError, match=r"cut\.img") as caught:
        decode_image(path)
    assert caught.value.kind in ("truncated_image", "broken_image")


def test_a_jpeg_with_a_thumbnail_that_is_cut_off_is_named():
    # The thumbnail ends with the same marker as the image, so the marker must be looked for behind the frame header.
    thumbnail = zoo.image_bytes(height=8, width=8)
    data = zoo.image_bytes()
    app1 = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 8) + b"Exif\0\0" + thumbnail
    whole = data[:2] + app1 + data[2:]
    decode_bytes(whole, "x")
    with pytest.raises(ImageError, match="cut off"):
        decode_bytes(whole[:-10], "x")


def test_bytes_behind_the_end_do_no_harm():
    data = zoo.image_bytes()
    np.testing.assert_array_equal(decode_bytes(data + b"\n<!-- saved by a camera -->", "x"), decode_bytes(data, "x"))


@pytest.mark.parametrize(
    "data, kind, words",
    [
        (b"", "empty_image", "0 bytes"),
        (b"hello, I am text", "not_an_image", "no image"),
        (b"\x00" * 100, "not_an_image", "no image"),
        (b"GIF89a" + b"\0" * 20, "unsupported_image", "GIF"),
        (b"\0\0\0\x18ftypheic" + b"\0" * 20, "unsupported_image", "HEIC"),
        (b"%PDF-1.7 ........", "unsupported_image", "PDF"),
        (b"\xff\xd8\xff", "broken_image", "ends inside"),
        (b"\xff\xd8\xff\xd9" + b"\0" * 20, "broken_image", "before the size"),
        (b"\xff\xd8\xff\xe0\x00\x00" + b"\0" * 20, "broken_image", "length 0"),
        (b"\xff\xd8\xff\xe0\x00\x04ab" + b"\0" * 20, "broken_image", "no marker"),
        (b"\xff\xd8" + b"\xff\x01" * 5000, "broken_image", "segments"),
        (b"\x89PNG\r\n\x1a\n", "broken_image", "IHDR"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\0\0\0\0\0\x05", "broken_image", "size is 0x5"),
        (b"RIFF\x10\0\0\0WEBPVP8 " + b"\0" * 20, "broken_image", "start code"),
        (b"RIFF\x10\0\0\0WEBPNOPE" + b"\0" * 20, "broken_image", "first chunk"),
        (b"RIFF\x10\0\0\0WEBPVP8L" + b"\0" * 20, "broken_image", "signature"),
        (b"BM" + b"\0" * 40, "broken_image", "length 0"),
        (b"BM", "broken_image", "ends inside"),
        (b"II*\0\xff\xff\xff\x7f", "broken_image", "ends inside"),
        (b"II*\0\x08\0\0\0\0\0\0\0\0\0", "broken_image", "no size"),
    ],
)
def test_broken_headers_say_what_is_wrong(data, kind, words):
    with pytest.raises(ImageError, match=words) as caught:
        header_of_bytes(data, "photo.jpg")
    assert caught.value.kind == kind
    assert str(caught.value).startswith("photo.jpg: ")


def test_files_that_cannot_be_opened(tmp_path):
    for path, kind in ((tmp_path / "none.jpg", "missing_image"), (tmp_path, "unreadable_image")):
        for function in (read_header, decode_image):
            with pytest.raises(ImageError) as caught:
                function(path)
            assert caught.value.kind == kind


def test_a_header_that_lies_about_the_size_is_found():
    # A JPEG with two frame headers: we read the first one, which says 8x8.
    data = zoo.image_bytes()
    frame = data.index(b"\xff\xc0")
    length = struct.unpack(">H", data[frame + 2 : frame + 4])[0]
    other = bytearray(data[frame : frame + 2 + length])
    other[5:9] = struct.pack(">HH", 8, 8)
    with pytest.raises(ImageError) as caught:
        decode_bytes(data[:frame] + bytes(other) + data[frame:], "x")
    assert caught.value.kind == "broken_image"


def test_sizes_of_many_and_the_errors_among_them(tmp_path):
    good = tmp_path / "good.png"
    good.write_bytes(zoo.image_bytes("PNG", height=5, width=9))
    sizes, errors = read_sizes([str(good), str(tmp_path / "none"), str(good)])
    assert sizes.tolist() == [[5, 9], [0, 0], [5, 9]]
    assert [(index, error.kind) for index, error in errors] == [(1, "missing_image")]


def test_headers_of_real_photographs_agree_with_pillow():
    paths = sorted(map(str, (dataset("coco128") / "images").rglob("*.jpg")))
    sizes, errors = read_sizes(paths)
    assert not errors
    for path, (height, width) in zip(paths, sizes, strict=True):
        with Image.open(path) as image:
            assert image.size == (width, height)


@pytest.mark.parametrize("format", FORMATS)
def test_damaged_images_decode_or_raise_an_image_error(format):
    valid = zoo.image_bytes(format, height=16, width=24, **FORMATS[format])

    @settings(derandomize=True, max_examples=200, deadline=None)
    @given(st.data())
    def damage(draw):
        data = bytearray(valid)
        for _ in range(draw.draw(st.integers(1, 3))):
            # Half of the damage hits the header, where it matters most.
            place = draw.draw(st.integers(0, 63) | st.integers(0, len(valid) - 1))
            data[place : place + 1] = draw.draw(st.binary(max_size=2))
        try:
            pixels = decode_bytes(bytes(data), "x.img")
        except ImageError as error:
            assert "x.img" in str(error)
        else:
            assert pixels.shape[2] == 3 and pixels.dtype == np.uint8

    damage()
