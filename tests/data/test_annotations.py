import pickle
from pathlib import Path

import numpy as np
import pytest

from sightline.config.printable import printable
from sightline.data.annotations import Fault, ImageAnnotations, PackedStrings, content_key


def three_images(**changes) -> ImageAnnotations:
    """Image 0 has two boxes, image 1 none, image 2 one."""
    values = {
        "class_names": ("cat", "dog"),
        "paths": PackedStrings(["a.jpg", "b.jpg", "c.jpg"]),
        "sizes_hw": np.array([[10, 20], [30, 40], [50, 60]]),
        "offsets": np.array([0, 2, 2, 3]),
        "boxes_xyxy": np.array([[0.0, 0, 5, 5], [1, 1, 4, 9], [2, 2, 6, 6]]),
        "labels": np.array([1, 0, 1]),
        "is_crowd": np.array([False, True, False]),
        "areas": np.array([25.0, 24.0, 16.0]),
        "image_ids": np.array([7, 8, 9]),
        "category_ids": np.array([3, 5]),
        "faults": (),
        "name": "pets/train",
        "source": Path("pets"),
    }
    return ImageAnnotations(**{**values, **changes})


def test_boxes_of_an_image_are_views_that_nobody_can_change():
    annotations = three_images()
    boxes, labels = annotations.boxes_of(0)
    assert labels.tolist() == [1, 0]
    assert np.shares_memory(boxes, annotations.boxes_xyxy)
    with pytest.raises(ValueError, match="read-only"):
        boxes[0, 0] = 1
    assert annotations.boxes_of(1)[0].shape == (0, 4)


def test_boxes_are_counted_by_image_and_by_class():
    annotations = three_images()
    assert len(annotations) == 3
    assert annotations.boxes_per_image.tolist() == [2, 0, 1]
    assert annotations.boxes_per_class.tolist() == [1, 2]
    assert annotations.image_index.tolist() == [0, 0, 2]


def test_selected_images_keep_their_boxes_and_faults_in_the_new_order():
    fault = Fault("k", Path("c.txt"), 1, "m", True, image=2)
    left_out = Fault("k", Path("b.txt"), 1, "m", True, image=1)
    chosen = three_images(faults=(fault, left_out)).select([2, 0])
    assert list(chosen.paths) == ["c.jpg", "a.jpg"]
    assert chosen.offsets.tolist() == [0, 1, 3]
    assert chosen.boxes_xyxy[:, 0].tolist() == [2, 0, 1]
    assert chosen.is_crowd.tolist() == [False, False, True]
    assert chosen.image_ids.tolist() == [9, 7]
    assert [f.image for f in chosen.faults] == [0, None]


def test_selecting_no_image_leaves_empty_arrays():
    nothing = three_images().select([])
    assert len(nothing) == 0
    assert nothing.boxes_xyxy.shape == (0, 4)


@pytest.mark.parametrize(
    "changes",
    [{"labels": np.zeros(4)}, {"offsets": np.array([0, 2, 1, 3])}, {"offsets": np.array([0, 2, 2, 4])}],
)
def test_arrays_that_do_not_fit_together_are_refused(changes):
    with pytest.raises(ValueError, match="expected"):
        three_images(**changes)


def test_packed_strings_return_any_file_name():
    names = ["a.jpg", "", "naïve 猫.png", "\udcff\udcfe.jpg", "\ud800"]
    packed = PackedStrings(names)
    assert list(packed) == names
    assert packed[-1] == "\ud800"
    assert list(packed[1:3]) == names[1:3]
    assert pickle.loads(pickle.dumps(packed)) == packed
    with pytest.raises(IndexError):
        packed[5]


def test_packed_strings_weigh_little_more_than_their_letters():
    packed = PackedStrings(f"images/{i:012d}.jpg" for i in range(1000))
    assert len(packed.blob) + packed.ends.nbytes == 1000 * (len("images/") + 12 + len(".jpg")) + 1001 * 8


def test_unprintable_text_is_escaped():
    assert printable("plain é 猫") == "plain é 猫"
    assert printable("a\x1b[31mb\nc\udcff\u202e") == "a\\x1b[31mb\\nc\\udcff\\u202e"
    assert printable("x" * 50, limit=10) == "xxxxxxx..."
    assert str(Fault("k", Path("a\n.txt"), 3, "bad \x1b", True)) == "a\\n.txt:3: bad \\x1b"


def test_content_key_changes_with_image_truth_and_name(tmp_path):
    image = tmp_path / "a.jpg"
    image.write_bytes(b"1234")

    def key(**changes):
        paths = PackedStrings([str(image), "b.jpg", "c.jpg"])
        return content_key(three_images(**{"paths": paths, "source": tmp_path, **changes}))

    first = key()
    assert first == key()
    assert first != key(labels=np.array([0, 0, 1]))
    assert first != key(is_difficult=np.array([True, False, False]))
    assert first != key(class_names=("cat", "cow"))
    image.write_bytes(b"12345")
    assert first != key()


def test_content_key_without_times_is_the_same_for_a_copy(tmp_path):
    keys = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.jpg").write_bytes(b"1234")
        paths = PackedStrings([str(tmp_path / folder / "a.jpg"), "b.jpg", "c.jpg"])
        keys.append(content_key(three_images(paths=paths, source=tmp_path / folder), file_times=False))
    assert keys[0] == keys[1]
