"""Small valid data sets of image classes in each format, and what comes out of reading them."""

import gzip
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np

from sightline.data.annotations import Fault
from sightline.data.class_labels import ClassLabels
from sightline.data.faults import FormatError, enforce
from sightline.data.formats import open_class_dataset
from tests.data.zoo import image_bytes

NAMES = ("cat", "dog", "owl")
WORDNET_IDS = ("n01440764", "n01443537", "n02119789")


def write_class_folders(root: Path) -> Path:
    """Three classes, 4 + 2 images each."""
    for split, count in (("train", 4), ("val", 2)):
        for label, name in enumerate(NAMES):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                (folder / f"{number}.png").write_bytes(
                    image_bytes("PNG", height=12, width=16, seed=10 * label + number)
                )
    return root


def write_imagenet(root: Path) -> Path:
    """Three training folders; six flat validation images of the classes 2 1 0 2 1 0 in ``val.txt``."""
    for label, name in enumerate(WORDNET_IDS):
        folder = root / "train" / name
        folder.mkdir(parents=True)
        for number in range(2):
            (folder / f"{name}_{number}.JPEG").write_bytes(image_bytes(seed=label))
    (root / "val").mkdir()
    for number in range(1, 7):
        (root / "val" / f"ILSVRC2012_val_{number:08d}.JPEG").write_bytes(image_bytes(seed=number))
    lines = [f"ILSVRC2012_val_{number:08d}.JPEG {(3 - number) % 3}\n" for number in range(1, 7)]
    (root / "val.txt").write_text("".join(lines))
    return root


VAL_LABELS = [2, 1, 0, 2, 1, 0]


def rows(count, seed):
    """(count, 3072) uint8."""
    return np.random.default_rng(seed).integers(0, 256, (count, 3072), dtype=np.uint8)


def cifar_labels(number):
    """Two labels a file."""
    return [number % 3, (number + 1) % 3]


def pickled(value) -> bytes:
    return pickle.dumps(value, 2)


def write_cifar_python(root: Path) -> Path:
    """CIFAR-10 with three classes and two images a file."""
    root.mkdir(parents=True)
    for number in range(1, 6):
        content = {b"data": rows(2, number), b"labels": cifar_labels(number), b"filenames": [b"a.png", b"b.png"]}
        (root / f"data_batch_{number}").write_bytes(pickled(content))
    (root / "test_batch").write_bytes(pickled({b"data": rows(2, 6), b"labels": cifar_labels(6)}))
    (root / "batches.meta").write_bytes(pickled({b"label_names": [name.encode() for name in NAMES]}))
    return root


def write_cifar100_python(root: Path) -> Path:
    root.mkdir(parents=True)
    for split, count in (("train", 6), ("test", 3)):
        labels = [i % 3 for i in range(count)]
        content = {"data": rows(count, count), "fine_labels": labels, "coarse_labels": [0] * count}
        (root / split).write_bytes(pickled(content))
    (root / "meta").write_bytes(pickled({"fine_label_names": list(NAMES), "coarse_label_names": ["animal"]}))
    return root


def record(*labels, seed=0):
    return bytes(labels) + rows(1, seed).tobytes()


def write_cifar_binary(root: Path) -> Path:
    root.mkdir(parents=True)
    for number in range(1, 6):
        labels = cifar_labels(number)
        (root / f"data_batch_{number}.bin").write_bytes(record(labels[0], seed=number) + record(labels[1], seed=9))
    (root / "test_batch.bin").write_bytes(record(0) + record(1) + record(2))
    (root / "batches.meta.txt").write_text("\n".join(NAMES) + "\n\n")
    return root


def write_cifar100_binary(root: Path) -> Path:
    """The first byte of a record is the coarse class, the second the fine one."""
    root.mkdir(parents=True)
    (root / "train.bin").write_bytes(b"".join(record(9, i % 3, seed=i) for i in range(6)))
    (root / "test.bin").write_bytes(b"".join(record(9, i % 3, seed=i) for i in range(3)))
    (root / "fine_label_names.txt").write_text("\n".join(NAMES) + "\n")
    (root / "coarse_label_names.txt").write_text("animal\n")
    return root


def idx(array) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def digits(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 7, 5), dtype=np.uint8)


def write_idx(root: Path, *, compressed=False) -> Path:
    """Classes 0, 1, 2; 6 + 3 images of 7x5 pixels."""
    root.mkdir(parents=True)
    pack = gzip.compress if compressed else bytes
    end = ".gz" if compressed else ""
    for split, count in (("train", 6), ("t10k", 3)):
        (root / f"{split}-images-idx3-ubyte{end}").write_bytes(pack(idx(digits(count))))
        labels = (np.arange(count) % 3).astype(np.uint8)
        (root / f"{split}-labels-idx1-ubyte{end}").write_bytes(pack(idx(labels)))
    return root


def write_archive(root: Path, write=write_cifar_python, folder="cifar-10-batches-py", mode="w:gz") -> Path:
    """A CIFAR archive as it is downloaded."""
    inner = write(root / folder)
    path = root / f"{folder}.tar{'.gz' if mode == 'w:gz' else ''}"
    with tarfile.open(path, mode) as archive:
        archive.add(inner, arcname=folder)
    return path


WRITERS = {
    "class_folders": write_class_folders,
    "imagenet": write_imagenet,
    "cifar_python": write_cifar_python,
    "cifar_binary": write_cifar_binary,
    "idx": write_idx,
}


def outcome(root: Path, **options) -> tuple[list[Fault], dict[str, ClassLabels]]:
    """Everything that reading finds, and what it gives; a data set that cannot be read gives one fault."""
    try:
        source = open_class_dataset(root, **options)
        read = {split: source.read(split) for split in source.splits}
        faults = [fault for labels in read.values() for fault in labels.faults]
        return [*source.faults, *faults, *source.unused()], read
    except FormatError as error:
        assert str(error.fault.path) in str(error) or not str(error.fault.path).isprintable()
        return [error.fault], {}


def assert_sane(labels: ClassLabels):
    """What every model may rely on, whatever the files said."""
    assert labels.labels.dtype == np.int64
    assert ((labels.labels >= 0) & (labels.labels < len(labels.class_names))).all()
    assert len(set(labels.class_names)) == len(labels.class_names)
    assert labels.images_per_class.sum() == len(labels) > 0
    assert all(fault.image is None or 0 <= fault.image < len(labels) for fault in labels.faults)
    if labels.packed is not None:
        assert labels.packed.rows.max() < len(labels.packed.pixels)
    for index in (0, len(labels) - 1):
        assert labels.describe(index) and labels.key_of(index)
    fatal = {fault.image for fault in labels.faults if fault.fatal and fault.image is not None}
    if len(fatal) < len(labels):
        kept, messages = enforce(labels, "skip")
        assert len(kept) == len(labels) - len(fatal)
        assert bool(messages) == bool(labels.faults)
