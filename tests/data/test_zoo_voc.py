"""Broken Pascal VOC data sets: every kind ends as a named fault with file and place, never as an unnamed error."""

import os
import shutil
from pathlib import Path

import pytest

from tests.data import zoo
from tests.data.zoo import voc_object, voc_xml


def xml(text):
    """Write the XML file of the first training image."""
    return lambda root: (root / "Annotations" / "a.xml").write_bytes(text if isinstance(text, bytes) else text.encode())


def one(extra="", **changes):
    """One good object and one changed one, which begins in line 7."""
    return xml(voc_xml(voc_object(), voc_object(**({"name": "dog"} | changes), extra=extra)))


def lines(text):
    """Write the list of the training images."""
    path = "ImageSets/Main/train.txt"
    return lambda root: (root / path).write_bytes(text if isinstance(text, bytes) else text.encode())


def added(name, data):
    return lambda root: (root / name).write_bytes(data if isinstance(data, bytes) else data.encode())


def removed(*names):
    return lambda root: [(root / name).unlink() for name in names]


def turned_image(root):
    """Stored 64x48, seen 48x64, and the XML file says what is stored."""
    (root / "JPEGImages" / "a.jpg").write_bytes(zoo.image_bytes(orientation=6))


LAUGHS = '<!DOCTYPE a [<!ENTITY x "ha">' + "".join(f'<!ENTITY x{i} "{"&x;" * 10}">' for i in range(9)) + "]>\n"
FETCH = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>\n'
GOOD_XML = voc_xml(*zoo.VOC_OBJECTS)
XML, JPG, LIST = "a.xml", "a.jpg", "train.txt"

# name: (what to break, kind of the fault, file, line, words of the message)
ZOO = {
    # a whole XML file
    "XML empty": (xml(""), "bad_xml", XML, None, "0 bytes"),
    "XML only blanks": (xml("\n\n"), "bad_xml", XML, 3, "no element"),
    "XML is text": (xml("hello"), "bad_xml", XML, 1, "syntax"),
    "XML is JSON": (xml('{"a": 1}'), "bad_xml", XML, 1, ""),
    "XML is binary": (xml(bytes(range(256))), "bad_xml", XML, 1, ""),
    "XML is an image": (xml(zoo.image_bytes()), "bad_xml", XML, 1, ""),
    "XML truncated": (xml(GOOD_XML[:200]), "bad_xml", XML, 5, "unclosed"),
    "XML with a wrong end": (xml(GOOD_XML.replace("</name>", "</nam>")), "bad_xml", XML, 5, "mismatched tag"),
    "XML with a bare ampersand": (one(name="cat & dog"), "bad_xml", XML, 8, "column"),
    "XML with entity expansion": (xml(LAUGHS + voc_xml(voc_object("&x8;"))), "bad_xml", XML, 1, "DOCTYPE"),
    "XML with an external entity": (xml(FETCH + voc_xml(voc_object("&x;"))), "bad_xml", XML, 1, "DOCTYPE"),
    "XML with an undefined entity": (one(name="&nothing;"), "bad_xml", XML, 8, "undefined entity"),
    "XML with an external DTD": (
        xml('<!DOCTYPE a SYSTEM "http://x/y.dtd">\n' + GOOD_XML),
        "bad_xml",
        XML,
        1,
        "DOCTYPE",
    ),
    "XML of another kind": (xml("<html><body/></html>"), "bad_xml", XML, 1, "'html', not 'annotation'"),
    "XML nested deep": (xml("<annotation>" + "<object>" * 100_000), "bad_xml", XML, 1, "nested more than"),
    "XML in an unknown encoding": (
        xml('<?xml version="1.0" encoding="klingon"?>' + GOOD_XML),
        "bad_xml",
        XML,
        None,
        "encoding",
    ),
    "XML in an encoding of several bytes": (
        xml('<?xml version="1.0" encoding="shift_jis"?>' + GOOD_XML),
        "bad_xml",
        XML,
        None,
        "encoding",
    ),
    "XML with wrong bytes": (xml(GOOD_XML.encode().replace(b"cat", b"\xff\xff\xff")), "bad_xml", XML, 5, "token"),
    "XML missing": (removed("Annotations/a.xml"), "missing_label", XML, None, "does not exist"),
    "XML is a folder": (zoo.replaced("Annotations/a.xml", Path.mkdir), "unreadable_label", XML, None, "a folder"),
    "XML is a pipe": (zoo.replaced("Annotations/a.xml", os.mkfifo), "unreadable_label", XML, None, "pipe"),
    "XML is a loop of links": (
        zoo.replaced("Annotations/a.xml", zoo.link_to_itself),
        "unreadable_label",
        XML,
        None,
        "opened",
    ),
    "XML too large": (xml(GOOD_XML + " " * (1 << 24)), "unreadable_label", XML, None, "bytes"),
    # one object
    "object without name": (
        xml(voc_xml(voc_object().replace("<name>cat</name>", ""))),
        "missing_key",
        XML,
        4,
        "'name'",
    ),
    "object with empty name": (one(name=" "), "missing_key", XML, 7, "'name'"),
    "object without box": (xml(voc_xml("\n<object><name>cat</name></object>")), "missing_key", XML, 4, "'bndbox'"),
    "box without xmax": (one(corners=(1, 2, None, 9)), "missing_key", XML, 7, "'xmax'"),
    "box with an empty corner": (one(corners=(1, 2, "", 9)), "missing_key", XML, 7, "'xmax'"),
    "corner is a word": (one(corners=(1, "two", 8, 9)), "bad_number", XML, 7, "'ymin' is 'two'"),
    "corner with underscore": (one(corners=(1, "1_0", 8, 9)), "bad_number", XML, 7, "'1_0'"),
    "corner in other digits": (one(corners=(1, "٣", 8, 9)), "bad_number", XML, 7, "'ymin'"),
    "corner with a comma": (one(corners=(1, "2,5", 8, 9)), "bad_number", XML, 7, "'2,5'"),
    "corner nan": (one(corners=(1, "nan", 8, 9)), "non_finite", XML, 7, "nan"),
    "corner infinite": (one(corners=(1, 2, "inf", 9)), "non_finite", XML, 7, "inf"),
    "corner overflows": (one(corners=(1, 2, "1e999", 9)), "non_finite", XML, 7, "inf"),
    "corner of many digits": (one(corners=(1, 2, "9" * 5000, 9)), "non_finite", XML, 7, "inf"),
    "corners negative": (one(corners=(-30, -30, -10, -10)), "outside_box", XML, 7, "pixels out of the image"),
    "box outside": (one(corners=(10, 10, 640, 40)), "outside_box", XML, 7, "576 pixels out of the image (64x48)"),
    "corners swapped": (one(corners=(30, 35, 10, 11)), "negative_size", XML, 7, "negative"),
    "box without size": (one(corners=(10, 10, 10, 10)), "degenerate_box", XML, 7, "no width"),
    "box without width": (one(corners=(10, 10, 10, 30)), "degenerate_box", XML, 7, "no width"),
    "box given twice": (xml(voc_xml(voc_object(), voc_object())), "duplicate_box", XML, 7, "'cat' is given twice"),
    "box counted from 0": (one(corners=(0, 5, 10, 10)), "clipped_box", XML, 7, "1 pixels over"),
    "difficult is 2": (one("<difficult>2</difficult>"), "bad_value", XML, 7, "'difficult' is '2'"),
    "two boxes in one object": (one("<bndbox><xmin>1</xmin></bndbox>"), "bad_value", XML, 8, "given twice"),
    "class not in the list": (
        added("classes.txt", "cat\ncow\n"),
        "unknown_class",
        XML,
        7,
        "'dog' is none of: cat, cow",
    ),
    "size is a word": (xml(voc_xml(*zoo.VOC_OBJECTS, size=("tall", 5))), "bad_value", XML, None, "height is 'tall'"),
    "size negative": (xml(voc_xml(*zoo.VOC_OBJECTS, size=(-5, 5))), "bad_value", XML, None, "height is '-5'"),
    "size of another image": (
        xml(voc_xml(*zoo.VOC_OBJECTS, size=(10, 20))),
        "size_mismatch",
        XML,
        None,
        "says 20x10, but the image is 64x48",
    ),
    "size of the unturned image": (turned_image, "size_mismatch", XML, None, "EXIF data turns it"),
    # images
    **zoo.broken_images("JPEGImages/a.jpg"),
    "image missing": (removed("JPEGImages/a.jpg"), "missing_image", LIST, 1, "does not exist"),
    "image format not read": (
        zoo.replaced("JPEGImages/a.jpg", lambda p: p.with_suffix(".gif").write_bytes(b"GIF89a" + bytes(30))),
        "unsupported_image",
        "a.gif",
        None,
        "GIF",
    ),
    "two images of one name": (
        lambda root: (
            [(root / f"JPEGImages/a{s}").write_bytes(zoo.image_bytes("PNG")) for s in (".png", ".bmp")]
            and (root / "JPEGImages/a.jpg").unlink()
        ),
        "ambiguous_image",
        XML,
        None,
        "a.bmp, a.png",
    ),
    # lists
    "list names a stranger": (lines("a\n\nzz\n"), "missing_image", LIST, 3, "zz.jpg does not exist"),
    "list names an image twice": (lines("a\nb\na\n"), "duplicate_image", LIST, 3, "again"),
    "list is binary": (lines(b"a\n\0\n"), "not_text", LIST, None, "null bytes"),
    "list is empty": (lines(""), "no_images", LIST, None, "no images"),
    "list climbs out": (lines("a\n../../secret\n"), "unsafe_path", LIST, 2, "leads out"),
    "list with an absolute path": (lines("/etc/passwd\n"), "unsafe_path", LIST, 1, "leads out"),
    "list is a folder": (
        zoo.replaced("ImageSets/Main/train.txt", Path.mkdir),
        "unreadable_file",
        LIST,
        None,
        "folder",
    ),
    # the set as a whole
    "no objects at all": (
        lambda root: [p.write_text(voc_xml()) for p in (root / "Annotations").iterdir()],
        "bad_names",
        "Annotations",
        None,
        "no object",
    ),
    "split without objects": (
        lambda root: [(root / f"Annotations/{stem}.xml").write_text(voc_xml()) for stem in "de"],
        "no_labels",
        "pets",
        None,
        "none of 2 images of pets/val",
    ),
    "classes doubled": (added("classes.txt", "cat\ndog\ncat\n"), "bad_names", "classes.txt", 3, "same name 'cat'"),
    "classes binary": (added("classes.txt", b"cat\0"), "not_text", "classes.txt", None, "null bytes"),
    "class name with an escape": (one(name="a&#x202e;b"), "bad_names", "Annotations", None, "\\u202e"),
    "XML without image": (added("Annotations/zz.xml", GOOD_XML), "label_without_image", "zz.xml", None, "no image"),
    "image without XML": (
        added("JPEGImages/zz.jpg", zoo.image_bytes()),
        "unlabelled_image",
        "zz.jpg",
        None,
        "no XML file",
    ),
    "image that no list names": (lines("a\nb\n"), "image_not_listed", "c.jpg", None, "no list"),
}


def test_the_zoo_is_large():
    assert len(ZOO) >= 70


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    return zoo.write_voc(tmp_path_factory.mktemp("voc") / "pets")


@pytest.mark.parametrize("name", ZOO)
def test_every_kind_of_damage_is_reported_with_its_place(name, valid, tmp_path):
    zoo.assert_reported(valid, tmp_path / "pets", *ZOO[name])


def test_the_valid_set_has_no_faults(valid):
    faults, read = zoo.outcome(valid)
    assert faults == []
    assert {split: (len(a), len(a.labels)) for split, a in read.items()} == {"train": (3, 6), "val": (2, 4)}


def test_entities_are_not_unfolded_even_in_a_comment_like_place(valid, tmp_path):
    # A declaration behind the root element is no DOCTYPE but broken syntax.
    root = tmp_path / "pets"
    shutil.copytree(valid, root)
    xml(GOOD_XML + '<!ENTITY x "y">')(root)
    faults, _ = zoo.outcome(root)
    assert [fault.kind for fault in faults] == ["bad_xml"]


def test_files_without_permission_are_reported(valid, monkeypatch):
    zoo.refuse_to_open(monkeypatch, "a.xml", "b.jpg")
    faults, _ = zoo.outcome(valid)
    assert sorted((fault.kind, fault.path.name) for fault in faults) == [
        ("unreadable_image", "b.jpg"),
        ("unreadable_label", "a.xml"),
    ]
