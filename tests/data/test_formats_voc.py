import pytest

from sightline.data.faults import FormatError
from sightline.data.formats import open_dataset
from tests.data import zoo
from tests.data.zoo import image_bytes, read_all, voc_object, voc_xml


def one_image(root, *objects, **files):
    """A set of one image; files by path, images where the value is None."""
    given = {"JPEGImages/a.jpg": None, "Annotations/a.xml": voc_xml(*objects), **files}
    for name, value in given.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image_bytes() if value is None else value if isinstance(value, bytes) else value.encode())
    return root


def test_corners_count_from_1_and_belong_to_the_box(tmp_path):
    # The top-left 10x20 pixels, and the whole image.
    one_image(tmp_path, voc_object("cat", (1, 1, 10, 20)), voc_object("dog", (1, 1, 64, 48)))
    boxes, labels = read_all(tmp_path)["train"].boxes_of(0)
    assert boxes.tolist() == [[0, 0, 10, 20], [0, 0, 64, 48]]
    assert labels.tolist() == [0, 1]


def test_corners_with_fractions(tmp_path):
    one_image(tmp_path, voc_object("cat", ("1.5", " 2.25\n", "1e1", "+20.")))
    assert read_all(tmp_path)["train"].boxes_xyxy.tolist() == [[0.5, 1.25, 10, 20]]


def test_difficult_objects_are_kept_and_marked(tmp_path):
    easy, hard = voc_object(extra="<difficult>0</difficult>"), voc_object("dog", extra="<difficult>1</difficult>")
    one_image(tmp_path, easy, hard, voc_object("cow", extra="<difficult/>"))
    annotations = read_all(tmp_path)["train"]
    assert annotations.is_difficult.tolist() == [False, True, False]
    assert not annotations.is_crowd.any()


def test_parts_of_an_object_are_not_objects(tmp_path):
    part = "<part><name>head</name><bndbox><xmin>2</xmin><ymin>2</ymin><xmax>3</xmax><ymax>3</ymax></bndbox></part>"
    one_image(tmp_path, voc_object("cat", (1, 1, 10, 20), extra=part))
    annotations = read_all(tmp_path)["train"]
    assert annotations.class_names == ("cat",)
    assert annotations.boxes_xyxy.tolist() == [[0, 0, 10, 20]]
    assert annotations.faults == ()


def test_classes_are_sorted_or_in_the_order_that_is_given(tmp_path):
    one_image(tmp_path, voc_object("dog"), voc_object("Zebra", (3, 3, 9, 9)), voc_object("cat", (1, 1, 5, 5)))
    assert open_dataset(tmp_path).class_names == ("Zebra", "cat", "dog")
    (tmp_path / "classes.txt").write_text("dog\ncat\n\nZebra\nunseen\n")
    assert open_dataset(tmp_path).class_names == ("dog", "cat", "Zebra", "unseen")
    source = open_dataset(tmp_path, class_names=["cat", "Zebra", "dog"])
    assert source.read("train").labels.tolist() == [2, 1, 0]


def test_splits_are_the_lists_but_not_those_of_single_classes(tmp_path):
    zoo.write_voc(tmp_path)
    folder = tmp_path / "ImageSets/Main"
    (folder / "trainval.txt").write_text("a\nb\nc\nd\ne\n")
    (folder / "cat_train.txt").write_text("a  1\nb -1\n")
    (folder / "night.txt").write_text("\ufeffa  1\nb -1\n e \n")
    source = open_dataset(tmp_path)
    assert source.splits == ("train", "val", "night", "trainval")
    assert [len(source.read(split)) for split in source.splits] == [3, 2, 3, 5]


def test_without_lists_all_images_with_xml_are_the_train_split(tmp_path):
    one_image(tmp_path, voc_object(), **{"JPEGImages/b.jpg": None, "Annotations/b.xml": voc_xml()})
    (tmp_path / "ImageSets").mkdir()
    annotations = read_all(tmp_path)["train"]
    assert annotations.boxes_per_image.tolist() == [1, 0]


def test_images_of_any_suffix_and_in_folders(tmp_path):
    one_image(tmp_path, voc_object(), **{"JPEGImages/x/b.c.PNG": None, "Annotations/x/b.c.xml": voc_xml(voc_object())})
    (tmp_path / "ImageSets/Main").mkdir(parents=True)
    (tmp_path / "ImageSets/Main/val.txt").write_text("x/b.c\n")
    annotations = open_dataset(tmp_path).read("val")
    assert annotations.paths[0] == str(tmp_path / "JPEGImages/x/b.c.PNG")
    assert annotations.faults == ()


def test_of_two_images_the_named_one_is_taken(tmp_path):
    one_image(tmp_path, **{"Annotations/a.xml": voc_xml(voc_object(), filename="a.png"), "JPEGImages/a.png": None})
    annotations = read_all(tmp_path)["train"]
    assert annotations.paths[0].endswith("a.png")
    assert annotations.faults == ()


@pytest.mark.parametrize("size", [(0, 0), ("", ""), (48, 0)])
def test_a_size_that_is_not_given_is_not_compared(tmp_path, size):
    one_image(tmp_path, **{"Annotations/a.xml": voc_xml(voc_object(), size=size)})
    assert read_all(tmp_path)["train"].faults == ()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "iso-8859-1"])
def test_xml_in_other_encodings(tmp_path, encoding):
    text = f'<?xml version="1.0" encoding="{encoding}"?>\n' + voc_xml(voc_object("hélice"))
    one_image(tmp_path, **{"Annotations/a.xml": text.encode(encoding)})
    assert open_dataset(tmp_path).class_names == ("hélice",)


def test_a_folder_above_is_recognised(tmp_path):
    zoo.write_voc(tmp_path / "VOC2007")
    with pytest.raises(FormatError, match=r"did you mean .*VOC2007\?"):
        open_dataset(tmp_path)


def test_what_no_split_uses_is_listed(tmp_path):
    zoo.write_voc(tmp_path)
    (tmp_path / "ImageSets/Main/val.txt").write_text("d\n")
    (tmp_path / "JPEGImages/f.jpg").write_bytes(image_bytes())
    (tmp_path / "Annotations/g.xml").write_text(voc_xml())
    assert [(fault.kind, fault.path.name) for fault in open_dataset(tmp_path).unused()] == [
        ("image_not_listed", "e.jpg"),
        ("unlabelled_image", "f.jpg"),
        ("label_without_image", "g.xml"),
    ]
