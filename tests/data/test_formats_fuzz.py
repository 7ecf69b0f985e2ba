"""Valid files, damaged at random: reading gives sane arrays or a typed error, and nothing else."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sightline.config.errors import UserError
from tests.data import zoo

TOKENS = [b"nan", b"-inf", b"1e999", b"-1", b"0", b"99999999999999999999", b"\0", b"\xff\xfe", b"\n", b" ", b"null"]
TOKENS += [
    b"<",
    b">",
    b"&x;",
    b"<object>",
    b"</object>",
    b"[",
    b"]",
    b"{",
    b"}",
    b'"',
    b",",
    b":",
    b"*a",
    b"&a ",
    b"!!x ",
]

pieces = st.sampled_from(TOKENS) | st.binary(max_size=3)
damages = st.lists(
    st.tuples(st.sampled_from(["put", "over", "cut", "double", "end"]), st.integers(0, 10**6), pieces),
    min_size=1,
    max_size=3,
)


def damaged(data: bytes, damage) -> bytes:
    for action, number, piece in damage:
        place = number % (len(data) + 1)
        if action == "put":
            data = data[:place] + piece + data[place:]
        elif action == "over":
            data = data[:place] + piece + data[place + len(piece) :]
        elif action == "cut":
            data = data[:place] + data[place + 1 + number % 17 :]
        elif action == "double":
            data = data[: place + 40] + data[place:]
        else:
            data = data[:place]
    return data


FILES = [
    ("yolo", "labels/train/a.txt"),
    ("yolo", "data.yaml"),
    ("voc", "Annotations/a.xml"),
    ("voc", "ImageSets/Main/train.txt"),
    ("coco", "annotations/instances_train2017.json"),
]


@pytest.mark.parametrize("format, name", FILES)
def test_damaged_files(tmp_path, format, name):
    root = zoo.WRITERS[format](tmp_path / "pets")
    path = root / name
    remarks = {".yaml": b"# a remark\n" * 30, ".xml": b"<!-- a remark -->\n" * 30}
    valid = path.read_bytes() + remarks.get(path.suffix, b"")  # without them nearly all damage is fatal
    seen = {"sound": 0, "faulty": 0}

    @settings(derandomize=True, max_examples=200, deadline=None)
    @given(damages)
    def damage(plan):
        path.write_bytes(damaged(valid, plan))
        try:
            faults, read = zoo.outcome(root)
        except UserError as error:
            raise AssertionError(f"an error without a fault: {error}") from error
        for annotations in read.values():
            zoo.assert_sane(annotations)
            zoo.assert_enforced(annotations)
        seen["faulty" if any(fault.fatal for fault in faults) else "sound"] += 1

    damage()
    # Damage that is always refused, or never, would not test much.
    assert min(seen.values()) >= 5, seen
