"""Readers of image classes: what stands in the files comes out, and every fault has its place and cure."""

import gzip
import os
import shutil
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest

from sightline.config.errors import ConfigError, DataError
from sightline.data.class_labels import class_content_key
from sightline.data.faults import FormatError, enforce
from sightline.data.formats import archive, open_class_dataset, open_dataset
from tests.conftest import dataset
from tests.data import class_zoo, zoo
from tests.data.class_zoo import NAMES, VAL_LABELS, WORDNET_IDS, outcome
from tests.faults.hostile import Payload


def test_cifar10_small_has_the_counts_of_its_description():
    source = open_class_dataset(dataset("cifar10_small"))
    assert source.format == "class_folders"
    assert source.splits == ("train", "test")
    assert source.class_names[0] == "airplane" and len(source.class_names) == 10
    train, test = source.read("train"), source.read("test")
    assert train.images_per_class.tolist() == [400] * 10
    assert test.images_per_class.tolist() == [100] * 10
    assert (train.sizes_hw == 32).all() and (test.sizes_hw == 32).all()
    assert train.faults == test.faults == ()
    assert Path(train.paths[400]).parent.name == "automobile" and train.labels[400] == 1


def test_class_folders_number_the_classes_by_name(tmp_path):
    faults, read = outcome(class_zoo.write_class_folders(tmp_path / "pets"))
    assert faults == []
    assert read["train"].class_names == NAMES
    assert read["train"].labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert read["val"].labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert read["train"].name == "pets/train"
    assert read["train"].key_of(5) == "train/dog/1.png"
    assert read["train"].sizes_hw[0].tolist() == [12, 16]


def test_class_folders_take_an_order_of_the_caller(tmp_path):
    root = class_zoo.write_class_folders(tmp_path / "pets")
    labels = open_class_dataset(root, class_names=("owl", "cat", "dog")).read("val")
    assert labels.class_names == ("owl", "cat", "dog")
    assert [Path(labels.paths[i]).parent.name for i in np.flatnonzero(labels.labels == 0)] == ["owl", "owl"]
    with pytest.raises(FormatError, match="asked for were owl, cat, cow"):
        open_class_dataset(root, class_names=("owl", "cat", "cow"))


def test_one_folder_of_classes_is_a_training_split(tmp_path):
    root = class_zoo.write_class_folders(tmp_path / "pets") / "train"
    source = open_class_dataset(root)
    assert source.splits == ("train",)
    with pytest.raises(FormatError, match=r"no split 'val'.*data\.val_fraction=0\.1"):
        source.read("val")


def test_folders_below_a_class_folder_belong_to_it_and_hidden_files_do_not(tmp_path):
    root = class_zoo.write_class_folders(tmp_path / "pets")
    cats = root / "train" / "cat"
    (cats / "kittens").mkdir()
    shutil.copy(cats / "0.png", cats / "kittens" / "9.png")
    shutil.copy(cats / "0.png", cats / "._0.png")
    (cats / ".DS_Store").write_bytes(b"x")
    (root / "train" / ".cache").mkdir()
    faults, read = outcome(root)
    assert faults == []
    assert read["train"].images_per_class.tolist() == [5, 4, 4]


def test_a_cut_validation_part_depends_on_seed_and_name_alone(tmp_path):
    root = class_zoo.write_class_folders(tmp_path / "pets") / "train"
    for number in range(4, 104):
        shutil.copy(root / "cat" / "0.png", root / "cat" / f"{number}.png")

    def parts(seed=0, folder=root):
        source = open_class_dataset(folder, val_fraction=0.3, seed=seed)
        assert source.splits == ("train", "val")
        return [{labels.key_of(i) for i in range(len(labels))} for labels in map(source.read, source.splits)]

    train, val = parts()
    assert not train & val and len(train | val) == 112
    assert 20 <= len(val) <= 50  # 112 draws of 0.3: mean 34, standard deviation 5
    moved = shutil.copytree(root, tmp_path / "elsewhere")
    assert parts(folder=moved) == [train, val]
    (moved / "cat" / "50.png").unlink()
    fewer = parts(folder=moved)
    assert fewer == [train - {"cat/50.png"}, val - {"cat/50.png"}]
    assert parts(seed=1)[1] != val


def test_a_validation_part_is_cut_only_where_there_is_none(tmp_path):
    root = class_zoo.write_class_folders(tmp_path / "pets")
    with pytest.raises(ConfigError, match=r"has a split 'val' already.*data\.val_fraction=0"):
        open_class_dataset(root, val_fraction=0.1)
    for wrong in (-0.1, 1.0, float("nan")):
        with pytest.raises(ConfigError, match="at least 0 and below 1"):
            open_class_dataset(root / "train", val_fraction=wrong)


def test_a_class_left_empty_by_the_cut_is_reported_for_that_part(tmp_path):
    root = class_zoo.write_class_folders(tmp_path / "pets") / "train"
    for number in range(1, 4):
        (root / "owl" / f"{number}.png").unlink()
    faults, _ = outcome(root, val_fraction=0.5)
    assert [f.kind for f in faults] == ["empty_class"]
    assert "'owl' has no image in train/" in str(faults[0])


def test_the_fault_of_an_image_is_told_of_its_own_part_alone(tmp_path):
    root = class_zoo.write_class_folders(tmp_path / "pets") / "train"
    (root / "dog" / "1.png").write_bytes(b"no image")
    source = open_class_dataset(root, val_fraction=0.5)
    faults = {split: [fault for fault in source.read(split).faults if fault.fatal] for split in source.splits}
    part, others = sorted(faults, key=lambda split: len(faults[split]), reverse=True)
    assert [fault.image for fault in faults[part]] != [None] and faults[others] == []
    assert source.read(part).key_of(faults[part][0].image) == "dog/1.png"
    moved = {seed: open_class_dataset(root, val_fraction=0.5, seed=seed) for seed in range(8)}
    counts = [len([f for split in one.splits for f in one.read(split).faults if f.fatal]) for one in moved.values()]
    assert counts == [1] * 8


def test_the_cut_of_packed_images_shares_their_pixels(tmp_path):
    root = class_zoo.write_cifar_python(tmp_path / "cifar")
    source = open_class_dataset(root, val_fraction=0.5)
    train, val = source.read("train"), source.read("val")
    assert len(train) + len(val) == 10 and source.splits == ("train", "val", "test")
    assert np.shares_memory(train.packed.pixels, val.packed.pixels)
    assert val.describe(0) == f"{val.packed.place_of(0)[0]}, image {val.packed.place_of(0)[1]}"


def imagenet_truths(root):
    """Four ways to write the same classes of the validation images."""
    ids = [WORDNET_IDS[label] for label in VAL_LABELS]
    names = [f"ILSVRC2012_val_{number:08d}" for number in range(1, 7)]
    number_of = {"n01440764": 450, "n01443537": 442, "n02119789": 1}
    yield "val.txt", "".join(f"{n}.JPEG {w}\n" for n, w in zip(names, ids, strict=True)), {}
    lines = [f"{n},{w} 1 2 3 4 {w} 5 6 7 8\n" for n, w in zip(names, ids, strict=True)]
    yield "LOC_val_solution.csv", "ImageId,PredictionString\n" + "".join(lines[::-1]), {}
    yield "imagenet_2012_validation_synset_labels.txt", "".join(f"{w}\n" for w in ids), {}
    table = "".join(f"{w} {n} some_words\n" for w, n in number_of.items())
    numbers = "".join(f"{number_of[w]}\n" for w in ids)
    yield "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt", numbers, {"map_clsloc.txt": table}


@pytest.mark.parametrize("number", range(4))
def test_flat_validation_images_of_imagenet_get_their_classes(tmp_path, number):
    root = class_zoo.write_imagenet(tmp_path / "imagenet")
    (root / "val.txt").unlink()
    name, text, others = list(imagenet_truths(root))[number]
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)
    for other, content in others.items():
        (root / name).with_name(other).write_text(content)
    source = open_class_dataset(root)
    assert source.format == "imagenet" and source.splits == ("train", "val")
    assert source.read("val").labels.tolist() == VAL_LABELS
    assert source.read("train").class_names == WORDNET_IDS


def test_kaggles_folders_are_found_below_the_archive(tmp_path):
    inner = class_zoo.write_imagenet(tmp_path / "kaggle" / "ILSVRC" / "Data" / "CLS-LOC")
    text = list(imagenet_truths(inner))[1][1]
    (inner / "val.txt").unlink()
    (tmp_path / "kaggle" / "LOC_val_solution.csv").write_text(text)
    assert open_class_dataset(tmp_path / "kaggle").read("val").labels.tolist() == VAL_LABELS


def test_lists_outside_of_the_data_set_and_kaggles_lists_of_images_are_not_taken(tmp_path):
    root = class_zoo.write_imagenet(tmp_path / "imagenet")
    (root / "val.txt").rename(tmp_path / "val.txt")
    (root / "ImageSets" / "CLS-LOC").mkdir(parents=True)
    (root / "ImageSets" / "CLS-LOC" / "val.txt").write_text("ILSVRC2012_val_00000001 1\nILSVRC2012_val_00000002 2\n")
    with pytest.raises(FormatError, match="no list of their classes is there"):
        open_class_dataset(root).read("val")


def test_validation_folders_of_imagenet_are_class_folders(tmp_path):
    root = class_zoo.write_imagenet(tmp_path / "imagenet")
    shutil.rmtree(root / "val")
    shutil.copytree(root / "train", root / "val")
    source = open_class_dataset(root)
    assert source.format == "class_folders"
    assert source.read("val").images_per_class.tolist() == [2, 2, 2]


CIFAR = {
    "10 python": (class_zoo.write_cifar_python, "cifar-10-batches-py", 10, 2),
    "100 python": (class_zoo.write_cifar100_python, "cifar-100-python", 6, 3),
    "10 binary": (class_zoo.write_cifar_binary, "cifar-10-batches-bin", 10, 3),
    "100 binary": (class_zoo.write_cifar100_binary, "cifar-100-binary", 6, 3),
}


@pytest.mark.parametrize("version", CIFAR)
@pytest.mark.parametrize("kind", ["folder", "folder above", "tar.gz", "tar"])
def test_cifar_is_read_from_folders_and_archives(tmp_path, version, kind):
    write, folder, num_train, num_test = CIFAR[version]
    if kind == "folder":
        path = write(tmp_path / "anything")
    elif kind == "folder above":
        path = write(tmp_path / folder).parent
    else:
        path = class_zoo.write_archive(tmp_path / "a", write, folder, "w:gz" if kind == "tar.gz" else "w")
    faults, read = outcome(path)
    assert [fault for fault in faults if fault.kind != "empty_class"] == []
    assert {split: len(labels) for split, labels in read.items()} == {"train": num_train, "test": num_test}
    train = read["train"]
    assert train.class_names == NAMES and train.channels == 3
    assert train.packed.pixels.shape == (num_train, 32, 32, 3)
    if write is class_zoo.write_cifar_python:
        assert train.labels.tolist() == [1, 2, 2, 0, 0, 1, 1, 2, 2, 0]
        # Planes of 1,024 bytes: red first, rows from the top.
        row = class_zoo.rows(2, 2)[1]
        assert train.packed.pixels[3, 5, 7].tolist() == [row[5 * 32 + 7], row[1024 + 167], row[2048 + 167]]
        assert train.packed.place_of(3)[1] == 1 and train.packed.place_of(3)[0].name == "data_batch_2"
    if write is class_zoo.write_cifar100_binary:
        assert train.labels.tolist() == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("where", [".", "raw"])
def test_idx_files_are_read(tmp_path, compressed, where):
    class_zoo.write_idx(tmp_path / "mnist" / where, compressed=compressed)
    source = open_class_dataset(tmp_path / "mnist")
    assert source.format == "idx" and source.splits == ("train", "test")
    train = source.read("train")
    assert train.class_names == ("0", "1", "2") and train.channels == 1
    assert train.labels.tolist() == [0, 1, 2, 0, 1, 2]
    np.testing.assert_array_equal(train.packed.pixels[..., 0], class_zoo.digits(6))
    named = open_class_dataset(tmp_path / "mnist", class_names=("shirt", "shoe", "bag", "coat")).read("train")
    assert named.class_names == ("shirt", "shoe", "bag", "coat")
    assert [fault.kind for fault in named.faults] == ["empty_class"]


def test_labels_beyond_the_given_names_are_faults_of_their_images(tmp_path):
    root = class_zoo.write_idx(tmp_path / "mnist")
    labels = open_class_dataset(root, class_names=("shirt", "shoe")).read("train")
    faults = [fault for fault in labels.faults if fault.fatal]
    assert [(fault.kind, fault.image) for fault in faults] == [("class_out_of_range", 2), ("class_out_of_range", 5)]
    assert "train-images-idx3-ubyte: image 2: class 2, but the classes are 0 to 1" in str(faults[0])
    with pytest.raises(DataError, match="2 faults in 2 of 6 images"):
        enforce(labels, "refuse")
    kept, messages = enforce(labels, "skip")
    assert kept.labels.tolist() == [0, 1, 0, 1] and "left out 2 of 6 images" in messages[0]


def text(name, content):
    return lambda root: (root / name).write_text(content)


def data(name, content):
    return lambda root: (root / name).write_bytes(content)


def cut(name, count):
    return lambda root: (root / name).write_bytes((root / name).read_bytes()[:count])


def without(name):
    return lambda root: (root / name).unlink()


def emptied(name):
    def damage(root):
        for path in (root / name).iterdir():
            path.unlink()

    return damage


def renamed(old, new):
    return lambda root: (root / old).rename(root / new)


def batch(**changes):
    content = {b"data": class_zoo.rows(2, 0), b"labels": [0, 1]} | {k.encode(): v for k, v in changes.items()}
    return data("data_batch_3", class_zoo.pickled(content))


def gz(name, content):
    return lambda root: ((root / f"{name}.gz").write_bytes(content), (root / name).unlink())


IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
FAULTS = [
    # format, damage, kind, file, line, words
    ("class_folders", emptied("val/dog"), "empty_class", "val", None, "'dog' has no image in set/val"),
    ("class_folders", renamed("val/dog", "val/Dog"), "bad_names", "set", None, "'Dog' and 'dog' differ in upper"),
    ("class_folders", renamed("val/dog", "val/wolf"), "empty_class", "train", None, "'wolf' has no image in set/train"),
    ("class_folders", text("train/cat/notes.txt", "x"), "other_file", "notes.txt", None, "1 file of the class 'cat'"),
    ("class_folders", data("train/9.jpg", zoo.image_bytes()), "unlabelled_image", "9.jpg", None, "beside the class"),
    ("class_folders", data("train/cat/a.gif", b"GIF89a" + bytes(30)), "unsupported_image", "a.gif", None, "GIF"),
    ("class_folders", text("train/cat/0.png", ""), "empty_image", "0.png", None, "0 bytes"),
    ("class_folders", cut("train/cat/0.png", 200), "truncated_image", "0.png", None, "cut off"),
    ("class_folders", text("val/owl/0.png", "no"), "not_an_image", "0.png", None, "no image"),
    ("class_folders", renamed("val/owl", "val/o\nl"), "bad_names", "set", None, "control characters"),
    ("imagenet", without("val.txt"), "missing_label", "val", None, "Put one of val.txt, LOC_val_solution.csv"),
    ("imagenet", text("val.txt", "ILSVRC2012_val_00000001.JPEG 3"), "class_out_of_range", "val.txt", 1, "0 to 2"),
    ("imagenet", text("val.txt", "\nILSVRC2012_val_00000001.JPEG -1"), "bad_class", "val.txt", 2, "'-1' is no class"),
    ("imagenet", text("val.txt", "ILSVRC2012_val_00000001.JPEG"), "wrong_columns", "val.txt", 1, "a name and a class"),
    ("imagenet", text("val.txt", "x.JPEG 0"), "label_without_image", "val.txt", 1, "no image x"),
    ("imagenet", text("val.txt", "x 0"), "missing_label", "ILSVRC2012_val_00000001.JPEG", None, "no class of this"),
    (
        "imagenet",
        text("val.txt", "ILSVRC2012_val_00000002.JPEG n09999999"),
        "unknown_class",
        "val.txt",
        1,
        "no training folder",
    ),
    (
        "imagenet",
        text("val.txt", "ILSVRC2012_val_00000001.JPEG 0\nILSVRC2012_val_00000001.JPEG 0\nILSVRC2012_val_00000001 2"),
        "two_classes",
        "val.txt",
        3,
        "another class here than in line 1",
    ),
    ("imagenet", data("val.txt", b"\0"), "not_text", "val.txt", None, "null bytes"),
    ("cifar_python", without("data_batch_4"), "not_found", "data_batch_4", None, "missing, but others of 'train'"),
    ("cifar_python", without("batches.meta"), "bad_names", "batches.meta", None, "data.class_names"),
    ("cifar_python", cut("data_batch_2", 100), "bad_pickle", "data_batch_2", None, "at byte"),
    (
        "cifar_python",
        batch(data=class_zoo.rows(3, 0)),
        "count_mismatch",
        "data_batch_3",
        None,
        "3 images, but 2 labels",
    ),
    ("cifar_python", batch(labels=[0, 7]), "class_out_of_range", "data_batch_3", None, "image 1: class 7"),
    ("cifar_python", batch(labels=[0, -1]), "class_out_of_range", "data_batch_3", None, "class -1"),
    ("cifar_python", batch(labels=[0, "x"]), "bad_class", "data_batch_3", None, "image 1: the class is 'x'"),
    ("cifar_python", batch(labels=[0, 2**80]), "bad_class", "data_batch_3", None, "not a whole number"),
    ("cifar_python", batch(labels={}), "wrong_type", "data_batch_3", None, "'labels' is a dict, not a list"),
    ("cifar_python", batch(data=[1]), "wrong_type", "data_batch_3", None, "'data' is a list"),
    (
        "cifar_python",
        batch(data=class_zoo.rows(2, 0)[:, :3000]),
        "broken_file",
        "data_batch_3",
        None,
        "(2, 3000) uint8; expected (n, 3072)",
    ),
    ("cifar_python", batch(data=class_zoo.rows(2, 0) * 1.0), "broken_file", "data_batch_3", None, "float64"),
    ("cifar_python", data("test_batch", class_zoo.pickled([1])), "broken_file", "test_batch", None, "holds a list"),
    ("cifar_python", data("test_batch", class_zoo.pickled({"a": 1})), "missing_key", "test_batch", None, "it holds a"),
    (
        "cifar_python",
        data("batches.meta", class_zoo.pickled({"label_names": [b"a", b"a"]})),
        "bad_names",
        "batches.meta",
        None,
        "the same name 'a'",
    ),
    ("cifar_python", zoo.replaced("test_batch", os.mkfifo), "unreadable_file", "test_batch", None, "pipe"),
    ("cifar_binary", cut("data_batch_1.bin", 6145), "truncated_file", "data_batch_1.bin", None, "3,072 bytes more"),
    ("cifar_binary", cut("data_batch_1.bin", 0), "truncated_file", "data_batch_1.bin", None, "has 0 bytes"),
    (
        "cifar_binary",
        data("test_batch.bin", class_zoo.record(200)),
        "class_out_of_range",
        "test_batch.bin",
        None,
        "200",
    ),
    ("idx", cut(IMAGES, 100), "truncated_file", IMAGES, None, "6 x 7 x 5, so 226 bytes; it has 100"),
    ("idx", cut(IMAGES, 9), "truncated_file", IMAGES, None, "inside its header"),
    ("idx", cut(IMAGES, 0), "broken_file", IMAGES, None, "byte 0"),
    ("idx", data(IMAGES, class_zoo.idx(class_zoo.digits(6)) + b"x"), "broken_file", IMAGES, None, "it has 227"),
    ("idx", data(IMAGES, class_zoo.idx(class_zoo.digits(5))), "count_mismatch", LABELS, None, "6 labels, but"),
    ("idx", data(IMAGES, b"\0\0\x0d\x03" + bytes(12)), "broken_file", IMAGES, None, "byte 2: values of the type 13"),
    ("idx", data(IMAGES, b"\x89PNG"), "broken_file", IMAGES, None, "two zero bytes"),
    ("idx", data(IMAGES, struct.pack(">I3I", 0x803, 6, 0, 5)), "broken_file", IMAGES, None, "5x0 pixels"),
    ("idx", data(IMAGES, struct.pack(">I3I", 0x803, *(2**32 - 1,) * 3)), "truncated_file", IMAGES, None, "so 79,"),
    ("idx", data(IMAGES, struct.pack(">I3I", 0x803, 0, *(2**32 - 1,) * 2)), "broken_file", IMAGES, None, "no array"),
    ("idx", data(LABELS, class_zoo.idx(class_zoo.digits(6))), "broken_file", LABELS, None, "these have 3"),
    ("idx", without(LABELS), "not_found", LABELS, None, "the labels of 'train' are missing"),
    ("idx", gz(IMAGES, b"no gzip"), "bad_archive", f"{IMAGES}.gz", None, "cannot be unpacked"),
    ("idx", gz(IMAGES, gzip.compress(bytes(500))[:-9]), "bad_archive", f"{IMAGES}.gz", None, "cannot be unpacked"),
]


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    root = tmp_path_factory.mktemp("valid")
    return {name: write(root / name) for name, write in class_zoo.WRITERS.items()}


@pytest.mark.parametrize("format, damage, kind, file, line, words", FAULTS, ids=range(len(FAULTS)))
def test_every_fault_is_named_with_its_place(valid, tmp_path, format, damage, kind, file, line, words):
    root = shutil.copytree(valid[format], tmp_path / "set")
    damage(root)
    faults, read = outcome(root)
    try:
        source = open_class_dataset(root)
        for split in source.splits:
            source.read(split)
        said = "\n".join(map(str, faults))
    except FormatError as error:
        said = str(error)
    hits = [fault for fault in faults if fault.kind == kind]
    assert hits, faults
    assert hits[0].path.name == file and hits[0].line == line, hits[0]
    assert words in said, said
    for labels in read.values():
        class_zoo.assert_sane(labels)


def test_an_archive_that_unfolds_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "MAX_BYTES", 1 << 20)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(bytes((1 << 20) + 1)))
    class_zoo.write_idx(tmp_path / "x").joinpath(LABELS).rename(tmp_path / LABELS)
    with pytest.raises(FormatError, match="unfolds to more than"):
        open_class_dataset(tmp_path).read("train")


def test_an_archive_of_another_kind_is_to_be_unpacked_not_downloaded_again(tmp_path):
    path = tmp_path / "coco.tar"
    with tarfile.open(path, "w") as tar:
        for number in range(archive.MAX_MEMBERS + 1):
            tar.addfile(tarfile.TarInfo(f"train2017/{number}.jpg"))
    with pytest.raises(FormatError, match=r"has more than 1,000 entries\. Unpack it, and name the folder"):
        open_class_dataset(path)
    with pytest.raises(FormatError, match=r"no known data set: expected a data\.yaml"):
        open_dataset(path)


def test_names_in_an_archive_lead_nowhere(tmp_path):
    inner = class_zoo.write_cifar_python(tmp_path / "cifar")
    path = tmp_path / "evil.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for file in sorted(inner.iterdir()):
            tar.add(file, arcname=f"../../../{file.name}")
        link = tarfile.TarInfo("batches.meta")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    before = sorted(tmp_path.rglob("*"))
    labels = open_class_dataset(path).read("train")
    assert len(labels) == 10
    assert sorted(tmp_path.rglob("*")) == before


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    root = class_zoo.write_cifar_python(tmp_path / "cifar")
    witness = tmp_path / "witness"
    (root / "data_batch_1").write_bytes(class_zoo.pickled({"data": Payload(witness)}))
    with pytest.raises(FormatError, match=r"data_batch_1: at byte .* may run code"):
        open_class_dataset(root).read("train")
    assert not witness.exists()


def test_a_path_of_the_wrong_kind_is_answered_with_what_is_there(tmp_path):
    boxes = zoo.write_yolo(tmp_path / "boxes")
    with pytest.raises(FormatError, match=r"images with boxes \(yolo\), which the recipes of detectors read"):
        open_class_dataset(boxes)
    pets = class_zoo.write_class_folders(tmp_path / "pets")
    with pytest.raises(FormatError, match=r"did you mean .*pets"):
        open_class_dataset(tmp_path)
    with pytest.raises(FormatError, match=r"no data set of the format 'idx'.*data\.format=class_folders"):
        open_class_dataset(pets, format="idx")
    with pytest.raises(FormatError, match="no format is called 'folder'"):
        open_class_dataset(pets, format="folder")
    with pytest.raises(FormatError, match="did you mean"):
        open_class_dataset(tmp_path / "pest")
    with pytest.raises(FormatError, match="expected a CIFAR archive"):
        open_class_dataset(pets / "train" / "cat" / "0.png")
    (pets / "only" / "one").mkdir(parents=True)
    with pytest.raises(FormatError, match="only one class folder"):
        open_class_dataset(pets / "only", format="class_folders")
    with pytest.raises(FormatError, match="folders of image classes"):
        open_dataset(pets)
    with pytest.raises(FormatError, match="no known data set of image classes"):
        open_class_dataset(boxes / "images")  # its folders are called train and val


def test_two_formats_in_one_folder_need_a_choice(tmp_path):
    root = class_zoo.write_cifar_python(tmp_path / "both")
    class_zoo.write_idx(tmp_path / "x")
    for path in (tmp_path / "x").iterdir():
        path.rename(root / path.name)
    with pytest.raises(FormatError, match=r"cifar_python and idx.*data\.format=cifar_python"):
        open_class_dataset(root)
    assert open_class_dataset(root, format="idx").format == "idx"


def test_headers_may_be_left_alone(tmp_path):
    root = class_zoo.write_class_folders(tmp_path / "pets")
    (root / "train" / "cat" / "0.png").write_bytes(b"")
    labels = open_class_dataset(root, read_headers=False).read("train")
    assert labels.faults == () and (labels.sizes_hw == 0).all()


def test_content_keys_change_with_images_and_classes(tmp_path):
    root = class_zoo.write_class_folders(tmp_path / "pets")
    source = open_class_dataset(root)
    first = class_content_key(source.read("train"), file_times=False)
    copy = shutil.copytree(root, tmp_path / "copy")
    assert class_content_key(open_class_dataset(copy).read("train"), file_times=False) == first
    (copy / "train" / "cat" / "0.png").rename(copy / "train" / "dog" / "8.png")
    assert class_content_key(open_class_dataset(copy).read("train"), file_times=False) != first
    packed = open_class_dataset(class_zoo.write_cifar_python(tmp_path / "cifar"))
    keys = {class_content_key(packed.read(split)) for split in ("train", "test", "train")}
    assert len(keys) == 2


def test_a_million_paths_take_one_blob(tmp_path):
    labels = open_class_dataset(class_zoo.write_class_folders(tmp_path / "pets")).read("train")
    assert isinstance(labels.paths.blob, bytes) and labels.labels.nbytes == 8 * len(labels)
    with pytest.raises(ValueError, match="read-only"):
        labels.labels[0] = 1
