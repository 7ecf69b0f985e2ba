import numpy as np
import pytest

from sightline.config.errors import DataError
from sightline.data.faults import FormatError, enforce
from sightline.data.formats import open_dataset
from tests.data import zoo
from tests.data.zoo import DATA_YAML, image_bytes, read_all


def write(root, **files):
    """Write files by path; an image where the value is None."""
    for name, value in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image_bytes() if value is None else value.encode())
    return root


def one_label(tmp_path, text, **files):
    """Boxes and labels of one image of 64x48 with this label file."""
    write(tmp_path, **{"images/train/a.jpg": None, "labels/train/a.txt": text, "data.yaml": NAMES, **files})
    return read_all(tmp_path)["train"].boxes_of(0)


NAMES = "train: images/train\nnames: [cat, dog]\n"


def test_a_line_is_class_centre_and_size_relative_to_the_image(tmp_path):
    # The image is 64 wide and 48 high: centre (32, 12), size 16x24.
    boxes, labels = one_label(tmp_path, "1 0.5 0.25 0.25 0.5\n")
    assert boxes.tolist() == [[24, 0, 40, 24]]
    assert labels.tolist() == [1]


@pytest.mark.parametrize(
    "text",
    [
        "\n1 .5 .25 .25 .5\n\n",
        "1\t.5  .25 .25 .5",
        "1 .5 .25 .25 .5\r\n \r\n",
        "\ufeff1 .5 .25 .25 .5",
        "1.0 5e-1 .25 +0.25 .5",
    ],
)
def test_blank_lines_tabs_line_ends_and_ways_to_write_a_number_do_not_matter(tmp_path, text):
    boxes, labels = one_label(tmp_path, text)
    assert boxes.tolist() == [[24, 0, 40, 24]]
    assert labels.tolist() == [1]


def test_a_polygon_counts_as_the_box_around_it_line_by_line(tmp_path):
    # A triangle (16, 12), (48, 12), (32, 36) between two plain boxes, which stay boxes.
    plain = "1 0.5 0.25 0.25 0.5\n"
    boxes, labels = one_label(tmp_path, plain + "0 .25 .25 .75 .25 .5 .75\n" + "0 0.5 0.25 0.25 0.5\n")
    assert boxes.tolist() == [[24, 0, 40, 24], [16, 12, 48, 36], [24, 0, 40, 24]]
    assert labels.tolist() == [1, 0, 0]


def test_sizes_are_those_of_the_turned_image(tmp_path):
    write(tmp_path, **{"labels/train/a.txt": "0 0.5 0.5 1 1\n", "images/train/b.jpg": None, "data.yaml": NAMES})
    (tmp_path / "images/train/a.jpg").write_bytes(image_bytes(orientation=6))
    annotations = read_all(tmp_path)["train"]
    assert annotations.sizes_hw.tolist() == [[64, 48], [48, 64]]
    assert annotations.boxes_of(0)[0].tolist() == [[0, 0, 48, 64]]


def test_empty_and_missing_labels_are_background(tmp_path):
    files = {"images/train/b.jpg": None, "images/train/c.jpg": None, "labels/train/b.txt": ""}
    one_label(tmp_path, "0 .5 .5 .5 .5\n", **files)
    annotations = read_all(tmp_path)["train"]
    assert annotations.boxes_per_image.tolist() == [1, 0, 0]
    assert [(fault.kind, fault.path.name, fault.fatal) for fault in annotations.faults] == [
        ("image_without_label", "c.jpg", False)
    ]


def test_a_box_a_little_over_the_edge_is_clipped_and_told_but_not_the_rounding_of_six_digits(tmp_path):
    boxes, _ = one_label(tmp_path, "0 0.9 0.5 0.22 0.5\n1 0.9 0.5 0.200002 1\n")
    assert boxes.tolist() == [[pytest.approx(0.79 * 64), 12, 64, 36], [pytest.approx(0.799999 * 64), 0, 64, 48]]
    faults = read_all(tmp_path)["train"].faults
    assert [(fault.kind, fault.line) for fault in faults] == [("clipped_box", 1)]


def test_the_last_images_folder_becomes_labels(tmp_path):
    root = tmp_path / "images" / "set"
    boxes, _ = one_label(root, "1 0.5 0.25 0.25 0.5\n")
    assert len(boxes) == 1


def test_labels_may_lie_beside_the_images(tmp_path):
    write(tmp_path, **{"pics/a.jpg": None, "pics/a.txt": "1 0.5 0.25 0.25 0.5\n"})
    write(tmp_path, **{"data.yaml": NAMES.replace("images/train", "pics")})
    assert read_all(tmp_path)["train"].labels.tolist() == [1]


def test_folders_are_searched_to_the_bottom_and_hidden_files_left_alone(tmp_path):
    write(tmp_path, **{"images/train/deep/er/b.PNG": None, "labels/train/deep/er/b.txt": "1 .5 .5 .5 .5"})
    write(
        tmp_path, **{"images/train/._a.jpg": "junk", "images/train/.cache/x.jpg": "junk", "images/train/notes.md": ""}
    )
    one_label(tmp_path, "0 .5 .5 .5 .5")
    annotations = read_all(tmp_path)["train"]
    assert [path[len(str(tmp_path)) :] for path in annotations.paths] == [
        "/images/train/a.jpg",
        "/images/train/deep/er/b.PNG",
    ]
    assert annotations.labels.tolist() == [0, 1]


def test_a_folder_that_links_to_itself_is_entered_once(tmp_path):
    one_label(tmp_path, "0 .5 .5 .5 .5")
    (tmp_path / "images/train/again").symlink_to(tmp_path / "images")
    assert len(read_all(tmp_path)["train"]) == 1


@pytest.mark.parametrize("names", ["[cat, dog]", "{1: dog, 0: cat}", "\n  0: cat\n  1: dog", "\n  - cat\n  - dog"])
def test_names_as_list_or_map(tmp_path, names):
    one_label(tmp_path, "", **{"data.yaml": f"train: images/train\nnames: {names}\nnc: 2\n"})
    assert open_dataset(tmp_path).class_names == ("cat", "dog")


def test_names_that_yaml_1_1_would_take_for_something_else(tmp_path):
    one_label(tmp_path, "", **{"data.yaml": "train: images/train\nnames: [no, on, 7, 2024-01-01]\n"})
    assert open_dataset(tmp_path).class_names == ("no", "on", "7", "2024-01-01")


def test_splits_as_list_of_folders_list_file_and_single_image(tmp_path, monkeypatch):
    files = {f"{folder}/{stem}.jpg": None for folder, stem in (("x/images", "a"), ("y/images", "b"), ("z/images", "c"))}
    labels = {name.replace("images", "labels").replace("jpg", "txt"): "0 .5 .5 .5 .5" for name in files}
    write(tmp_path, **files, **labels)
    absolute = tmp_path / "z/images/c.jpg"
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/val.txt").write_text(f"../x/images/a.jpg\r\n\n./../y/images/b.jpg  \n{absolute}\n")
    monkeypatch.setenv("PETS", str(tmp_path))
    (tmp_path / "lists/data.yaml").write_text(
        "path: $PETS\ntrain: [x/images, y/images]\nval: lists/val.txt\ntest: z/images/c.jpg\nnames: [cat]\n"
    )
    source = open_dataset(tmp_path / "lists/data.yaml")
    assert source.splits == ("train", "val", "test")
    assert [len(source.read(split)) for split in source.splits] == [2, 3, 1]
    assert all(source.read(split).boxes_per_image.all() for split in source.splits)


def test_a_split_that_is_left_blank_is_no_split(tmp_path):
    one_label(tmp_path, "0 .5 .5 .5 .5", **{"data.yaml": NAMES + "val:\ntest: # none yet\n"})
    source = open_dataset(tmp_path)
    assert source.splits == ("train",)
    with pytest.raises(FormatError, match=r"no split 'trian'; it has: train\. Did you mean 'train'\?"):
        source.read("trian")


def test_a_yaml_file_of_any_name_and_the_folder_that_holds_it_alone(tmp_path):
    one_label(tmp_path, "0 .5 .5 .5 .5")
    (tmp_path / "data.yaml").rename(tmp_path / "pets.yml")
    for path in (tmp_path, tmp_path / "pets.yml"):
        assert open_dataset(path).read("train").name == f"{tmp_path.name}/train"


def test_a_folder_without_data_file(tmp_path):
    write(tmp_path, **{"images/train2017/a.jpg": None, "labels/train2017/a.txt": "0 .5 .5 .5 .5"})
    write(tmp_path, **{"images/val2017/b.jpg": None, "labels/val2017/b.txt": "2 .5 .5 .5 .5"})
    source = open_dataset(tmp_path)
    assert source.format == "yolo"
    assert source.splits == ("train", "val")
    assert source.class_names == ("class_0", "class_1", "class_2")
    assert open_dataset(tmp_path, class_names=["a", "b", "c"]).class_names == ("a", "b", "c")
    (tmp_path / "labels/classes.txt").write_text("cat\ndog\ncow\n")
    assert open_dataset(tmp_path).class_names == ("cat", "dog", "cow")
    assert open_dataset(tmp_path).unused() == []


@pytest.mark.parametrize(
    "folders, splits",
    [
        (("images", "labels"), ("train",)),
        (("images/night", "labels/night"), ("train",)),
        (("train/images", "train/labels"), ("train",)),
        (("valid/images", "valid/labels"), ("val",)),
        (("images/train2014", "labels/train2014"), ("train",)),
    ],
)
def test_layouts_of_folders(tmp_path, folders, splits):
    images, labels = folders
    write(tmp_path, **{f"{images}/a.jpg": None, f"{labels}/a.txt": "0 .5 .5 .5 .5"})
    source = open_dataset(tmp_path)
    assert source.splits == splits
    assert source.read(splits[0]).labels.tolist() == [0]


def test_two_years_of_a_split_stay_apart(tmp_path):
    for year in (2014, 2017):
        write(tmp_path, **{f"images/train{year}/a.jpg": None, f"labels/train{year}/a.txt": "0 .5 .5 .5 .5"})
    assert open_dataset(tmp_path).splits == ("train2014", "train2017")


def test_a_class_number_that_would_fill_the_memory_with_names_is_refused(tmp_path):
    write(tmp_path, **{"images/a.jpg": None, "labels/a.txt": "2000000000 .5 .5 .5 .5"})
    with pytest.raises(FormatError, match="speak of class 2000000000"):
        open_dataset(tmp_path).read("train")


def test_a_list_of_images_alone(tmp_path):
    write(tmp_path, **{"images/a.jpg": None, "labels/a.txt": "1 .5 .5 .5 .5", "val.txt": "images/a.jpg\n"})
    source = open_dataset(tmp_path / "val.txt", class_names=["cat", "dog"])
    assert source.splits == ("val",)
    assert source.read("val").labels.tolist() == [1]


def test_a_text_that_names_no_image_is_no_list(tmp_path):
    (tmp_path / "plain.txt").write_text("\nhello\nthere\n")
    with pytest.raises(FormatError, match=r"plain\.txt:2: no list of images: 'hello' names no image\. Give a list"):
        open_dataset(tmp_path / "plain.txt")
    (tmp_path / "hello").write_bytes(b"")  # an image may have any name
    assert open_dataset(tmp_path / "plain.txt").splits == ("train",)


def test_names_that_differ_from_those_asked_for_are_refused(tmp_path):
    one_label(tmp_path, "")
    with pytest.raises(FormatError, match="its classes are cat, dog, but asked for were cat, cow"):
        open_dataset(tmp_path, class_names=["cat", "cow"])


def test_skipping_leaves_out_the_spoilt_images_and_says_so(tmp_path):
    zoo.write_yolo(tmp_path)
    (tmp_path / "labels/train/b.txt").write_text("7 .5 .5 .5 .5\n")
    (tmp_path / "labels/val/d.txt").write_text("0 .5 .5 0 0\n1 .5 .5 .5 .5\n")
    read = read_all(tmp_path)
    kept, messages = enforce(read["train"], "skip")
    assert [path[-5:] for path in kept.paths] == ["a.jpg", "c.jpg"]
    assert messages[0].endswith("/train: left out 1 of 3 images (data.on_fault=skip); figures are those of the others")
    kept, messages = enforce(read["val"], "refuse")
    assert kept.boxes_per_image.tolist() == [1, 2]
    assert "1 x box without width or height; dropped, in " in messages[0]
    assert messages[0].endswith("labels/val/d.txt:1")


def test_a_refusal_names_the_first_places_in_their_order_and_the_way_out(tmp_path):
    zoo.write_yolo(tmp_path)
    (tmp_path / "labels/train/a.txt").write_text("0 .5 .5 .5 .5\n7 .5 .5 .5 .5\n0 nan .5 .5 .5\n")
    (tmp_path / "labels/train/b.txt").write_text("rubbish\n")
    with pytest.raises(DataError) as caught:
        enforce(read_all(tmp_path)["train"], "refuse")
    assert str(caught.value).splitlines() == [
        f"{tmp_path.name}/train: 3 faults in 2 of 3 images (the first 2 are shown):",
        f"  {tmp_path}/labels/train/a.txt:2: class 7, but the classes are 0 to 1",
        f"  {tmp_path}/labels/train/a.txt:3: the box is (nan, 12, nan, 36)",
        f"Repair them (all are listed by: sightline check {tmp_path}/data.yaml) or leave those images out with "
        "data.on_fault=skip.",
    ]


def test_a_single_fault_is_spoken_of_as_one(tmp_path):
    folder = tmp_path / "my data"
    folder.mkdir()
    zoo.write_yolo(folder)
    (folder / "labels/train/a.txt").write_text("7 .5 .5 .5 .5\n")
    with pytest.raises(DataError) as caught:
        enforce(read_all(folder)["train"], "refuse")
    first, _, last = str(caught.value).splitlines()
    assert first == "my data/train: 1 fault in 1 of 3 images:"
    assert last == (
        f"Repair it (look again with: sightline check '{folder}/data.yaml') or leave that image out with "
        "data.on_fault=skip."
    )


def test_skipping_everything_is_refused(tmp_path):
    zoo.write_yolo(tmp_path)
    for path in (tmp_path / "labels/val").iterdir():
        path.write_text("9 .5 .5 .5 .5\n")
    with pytest.raises(DataError, match="No image would be left"):
        enforce(read_all(tmp_path)["val"], "skip")


def test_many_boxes_lie_in_flat_arrays(tmp_path):
    rng = np.random.default_rng(0)
    centers, sizes = rng.uniform(0.3, 0.7, (20_000, 2)), rng.uniform(0.1, 0.5, (20_000, 2))
    table = np.column_stack((rng.integers(0, 2, 20_000), centers, sizes)).round(6)
    text = "\n".join(f"{row[0]:.0f} {row[1]:f} {row[2]:f} {row[3]:f} {row[4]:f}" for row in table)
    write(tmp_path, **{"images/train/a.jpg": None, "labels/train/a.txt": text, "data.yaml": NAMES})
    annotations = read_all(tmp_path)["train"]
    assert annotations.labels.tolist() == table[:, 0].tolist()
    cxcywh = table[:, 1:] * [64, 48, 64, 48]
    np.testing.assert_allclose(annotations.boxes_xyxy[:, :2], cxcywh[:, :2] - cxcywh[:, 2:] / 2, atol=1e-9)
    np.testing.assert_allclose(annotations.boxes_xyxy[:, 2:], cxcywh[:, :2] + cxcywh[:, 2:] / 2, atol=1e-9)
    assert annotations.boxes_xyxy.nbytes + annotations.labels.nbytes == 20_000 * 36


def test_files_read_at_once_and_line_by_line_agree(tmp_path):
    rng = np.random.default_rng(1)
    table = np.column_stack((rng.integers(0, 2, 50), rng.uniform(0.3, 0.7, (50, 2)), rng.uniform(0, 0.5, (50, 2))))
    text = "\n".join(" ".join(map(repr, [int(row[0]), *map(float, row[1:])])) for row in table)
    read = [one_label(tmp_path / name, text.replace(" ", blank)) for name, blank in (("a", " "), ("b", "\t"))]
    for former, latter in zip(*read, strict=True):
        np.testing.assert_array_equal(former, latter)


@pytest.mark.parametrize(
    "text", ["0 .5 .5 .5\n0 .5 .5 .5 .5 .5\n", " 0 .5 .5 .5\n0 .5 .5 .5 .5 .5", "0 .5 .5  .5\n0 .5 .5 .5 .5 .5"]
)
def test_a_field_that_slipped_to_the_next_line_is_noticed(tmp_path, text):
    write(tmp_path, **{"images/train/a.jpg": None, "labels/train/a.txt": text, "data.yaml": NAMES})
    assert [(fault.kind, fault.line) for fault in read_all(tmp_path)["train"].faults] == [
        ("wrong_columns", 1),
        ("wrong_columns", 2),
    ]


def test_data_yaml_of_the_zoo_is_the_one_that_the_module_describes(tmp_path):
    zoo.write_yolo(tmp_path)
    assert (tmp_path / "data.yaml").read_text() == DATA_YAML
    assert open_dataset(tmp_path).splits == ("train", "val")
