"""Small valid data sets of each format, images of every kind, and what comes out of reading them."""

import io
import json
import os
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from sightline.config.errors import DataError
from sightline.data.annotations import Fault, ImageAnnotations
from sightline.data.faults import FormatError, enforce
from sightline.data.formats import open_dataset

HEIGHT, WIDTH = 48, 64


def pixels(height=HEIGHT, width=WIDTH, seed=0):
    """A smooth picture, different in all corners."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (3, 4, 3), dtype=np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def image_bytes(format="JPEG", *, height=HEIGHT, width=WIDTH, seed=0, orientation=None, mode="RGB", **options):
    """An encoded image."""
    if orientation is not None:
        exif = Image.Exif()
        exif[274] = orientation
        options |= {"tiffinfo": {274: orientation}} if format == "TIFF" else {"exif": exif}
    out = io.BytesIO()
    Image.fromarray(pixels(height, width, seed)).convert(mode).save(out, format, **options)
    return out.getvalue()


def png_chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_bomb(height=60_000, width=60_000):
    """A PNG of a few hundred bytes that claims billions of pixels."""
    start = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return start + png_chunk(b"IDAT", zlib.compress(bytes(1000))) + png_chunk(b"IEND", b"")


def jpeg_bomb():
    """A JPEG whose frame header claims 65,000 x 65,000."""
    data = bytearray(image_bytes())
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 65_000, 65_000)
    return bytes(data)


def bmp_bomb():
    return (
        b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, 50_000, 50_000, 1, 24, *(0,) * 6)
    )


def webp_bomb():
    return b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<IBHBHBHB", 10, 0, 0, 0, 0xFFFF, 0, 0xFFFF, 0)


def tiff_bomb():
    tags = struct.pack("<HHHII", 2, 256, 4, 1, 99_999) + struct.pack("<HHII", 257, 4, 1, 99_999)
    return b"II*\0" + struct.pack("<I", 8) + tags + bytes(4)


STEMS = {"train": ("a", "b", "c"), "val": ("d", "e")}
YOLO_LINES = "0 0.5 0.5 0.25 0.5\n1 0.25 0.25 0.125 0.25\n"
DATA_YAML = "path: .\ntrain: images/train\nval: images/val\nnames:\n  0: cat\n  1: dog\n"


def write_images(root, folders):
    for number, (split, stems) in enumerate(STEMS.items()):
        folder = root / folders[split]
        folder.mkdir(parents=True, exist_ok=True)
        for stem in stems:
            (folder / f"{stem}.jpg").write_bytes(image_bytes(seed=number))


def write_yolo(root: Path) -> Path:
    """Two classes, 3 + 2 images, two boxes each."""
    write_images(root, {"train": "images/train", "val": "images/val"})
    for split, stems in STEMS.items():
        (root / "labels" / split).mkdir(parents=True)
        for stem in stems:
            (root / "labels" / split / f"{stem}.txt").write_text(YOLO_LINES)
    (root / "data.yaml").write_text(DATA_YAML)
    return root


def voc_object(name="cat", corners=(10, 11, 30, 35), extra=""):
    inner = "".join(
        f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True) if v is not None
    )
    return f"\n<object>\n<name>{name}</name>{extra}<bndbox>{inner}</bndbox>\n</object>"


def voc_xml(*objects, size=(HEIGHT, WIDTH), filename="x.jpg"):
    """The first object begins in line 4; each takes 3 lines."""
    return (
        f"<annotation>\n<filename>{filename}</filename>\n"
        f"<size><width>{size[1]}</width><height>{size[0]}</height><depth>3</depth></size>"
        f"{''.join(objects)}\n</annotation>\n"
    )


VOC_OBJECTS = (voc_object(), voc_object("dog", (1, 1, 20, 20)))


def write_voc(root: Path) -> Path:
    write_images(root, {"train": "JPEGImages", "val": "JPEGImages"})
    (root / "Annotations").mkdir()
    (root / "ImageSets" / "Main").mkdir(parents=True)
    for split, stems in STEMS.items():
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{stem}\n" for stem in stems))
        for stem in stems:
            (root / "Annotations" / f"{stem}.xml").write_text(voc_xml(*VOC_OBJECTS, filename=f"{stem}.jpg"))
    return root


def coco_content(split):
    """Categories 3 and 7; image ids from 10; annotation ids from 100."""
    images = [
        {"id": 10 + i, "file_name": f"{stem}.jpg", "height": HEIGHT, "width": WIDTH}
        for i, stem in enumerate(STEMS[split])
    ]
    boxes = [(3, [9.0, 10.0, 21.0, 25.0], 400.0), (7, [0, 0, 20, 20], 380.0)]
    annotations = [
        {"image_id": image["id"], "category_id": category, "bbox": box, "area": area, "iscrowd": 0}
        for image in images
        for category, box, area in boxes
    ]
    for number, annotation in enumerate(annotations):
        annotation["id"] = 100 + number
        annotation["segmentation"] = [[1, 2, 3, 4, 5, 6]]
    categories = [{"id": 3, "name": "cat", "supercategory": "pet"}, {"id": 7, "name": "dog", "supercategory": "pet"}]
    return {"info": {}, "images": images, "annotations": annotations, "categories": categories}


def write_coco(root: Path) -> Path:
    write_images(root, {"train": "train2017", "val": "val2017"})
    (root / "annotations").mkdir()
    for split in STEMS:
        (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(coco_content(split)))
    return root


WRITERS = {"yolo": write_yolo, "voc": write_voc, "coco": write_coco}


def read_all(root: Path, **options) -> dict[str, ImageAnnotations]:
    source = open_dataset(root, **options)
    return {split: source.read(split) for split in source.splits}


def outcome(root: Path, **options) -> tuple[list[Fault], dict[str, ImageAnnotations]]:
    """Everything that reading finds, and what it gives; a data set that cannot be read gives one fault."""
    try:
        source = open_dataset(root, **options)
        read = {split: source.read(split) for split in source.splits}
        faults = [fault for annotations in read.values() for fault in annotations.faults]
        return [*source.faults, *faults, *source.unused()], read
    except FormatError as error:
        assert str(error.fault.path) in str(error) or not str(error.fault.path).isprintable()
        return [error.fault], {}


def assert_sane(annotations: ImageAnnotations):
    """What every model may rely on, whatever the files said."""
    boxes, limits = annotations.boxes_xyxy, annotations.sizes_hw[annotations.image_index][:, ::-1]
    assert np.isfinite(boxes).all() and np.isfinite(annotations.areas).all()
    assert (boxes >= 0).all() and (boxes[:, :2] < boxes[:, 2:]).all()
    assert (boxes[:, 2:] <= limits).all()
    assert ((annotations.labels >= 0) & (annotations.labels < len(annotations.class_names))).all()


def assert_enforced(annotations: ImageAnnotations):
    """Fatal faults stop or cost exactly their images; the others are counted."""
    fatal = [fault for fault in annotations.faults if fault.fatal]
    spoilt = {fault.image for fault in fatal} - {None}
    if not fatal:
        kept, messages = enforce(annotations, "refuse")
        assert kept is annotations
        assert bool(messages) == bool(annotations.faults)
        return
    try:
        enforce(annotations, "refuse")
        raise AssertionError("fatal faults were accepted")
    except DataError as error:
        text = str(error)
        assert len(text.splitlines()) <= 5 and "data.on_fault=skip" in text and fatal[0].place in text
    if len(spoilt) == len(annotations):
        return
    kept, messages = enforce(annotations, "skip")
    assert len(kept) == len(annotations) - len(spoilt)
    assert (kept.sizes_hw > 0).all()
    assert messages
    if spoilt:
        assert f"left out {len(spoilt)} of {len(annotations)} image" in messages[0]
    assert_sane(kept)


def replaced(name, make):
    """Puts something that is no plain file in a file's place; ``make`` gets the free path."""

    def damage(root):
        (root / name).unlink()
        make(root / name)

    return damage


def link_to_itself(path):
    path.symlink_to(path)


def broken_images(name):
    """Rows of a zoo: all that may be wrong with an image itself, whatever the format of its labels.

    Args:
        name: The first training image, as a path below the root.
    """

    def holds(data):
        return lambda root: (root / name).write_bytes(data)

    rows = {
        "is empty": (holds(b""), "empty_image", "0 bytes"),
        "is text": (holds(b"<html>404</html>"), "not_an_image", "no image"),
        "is cut in its header": (holds(image_bytes()[:100]), "broken_image", "ends inside"),
        "is cut in its pixels": (holds(image_bytes()[:-30]), "truncated_image", "cut off after"),
        "is a PNG cut in its pixels": (holds(image_bytes("PNG")[:-30]), "truncated_image", "cut off after"),
        "is a WebP cut in its pixels": (holds(image_bytes("WEBP")[:-30]), "truncated_image", "cut off after"),
        "is a broken PNG": (holds(b"\x89PNG\r\n\x1a\nrubbish"), "broken_image", "IHDR"),
        "is a GIF": (holds(b"GIF89a" + bytes(30)), "unsupported_image", "GIF"),
        "is a PNG bomb": (holds(png_bomb()), "too_large_image", "3,600 megapixels"),
        "is a JPEG bomb": (holds(jpeg_bomb()), "too_large_image", "megapixels"),
        "is a WebP bomb": (holds(webp_bomb()), "too_large_image", "megapixels"),
        "is a TIFF bomb": (holds(tiff_bomb()), "too_large_image", "megapixels"),
        "is a BMP bomb": (holds(bmp_bomb()), "too_large_image", "megapixels"),
        "is a folder": (replaced(name, Path.mkdir), "unreadable_image", "a folder"),
        "is a pipe": (replaced(name, os.mkfifo), "unreadable_image", "pipe"),
        "is a loop of links": (replaced(name, link_to_itself), "unreadable_image", "opened"),
    }
    file = Path(name).name
    return {f"image {what}": (damage, kind, file, None, words) for what, (damage, kind, words) in rows.items()}


def assert_reported(valid, root, damage, kind, file, line, words):
    """Break a copy of a valid set: the fault is named with its place, and what can be read is sane.

    Args:
        valid: The set to copy.
        root: Where the copy goes.
        damage: Breaks the copy.
        kind: Kind of the fault.
        file: Name of the file that the fault points at; None for any.
        line: Line that it points at, or None where there is none.
        words: Part of its message.
    """
    shutil.copytree(valid, root)
    damage(root)
    faults, read = outcome(root)
    hits = [fault for fault in faults if fault.kind == kind]
    assert hits, faults
    assert hits[0].line == line, hits[0]
    assert file is None or hits[0].path.name == file, hits[0]
    assert words in str(hits[0]), hits[0]
    for annotations in read.values():
        assert_sane(annotations)
        assert_enforced(annotations)


def refuse_to_open(monkeypatch, *names):
    """Let files with these names be without permission.

    The tests may run as root, whom permissions do not stop; so the system call itself refuses.
    """
    system_open = os.open

    def refuse(path, *rest, **options):
        if str(path).endswith(names):
            raise PermissionError(13, "Permission denied")
        return system_open(path, *rest, **options)

    monkeypatch.setattr(os, "open", refuse)
