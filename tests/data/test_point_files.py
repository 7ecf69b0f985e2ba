"""Files of points: what they hold, and that broken ones end in a clear error before they cost memory."""

import io
import pickle
import resource

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sightline.config.errors import DataError
from sightline.data.point_files import MAX_POINTS, PointFileError, read_points
from tests.data.test_lzf import literals

POINTS = np.array([[1, 2, 3, 0.5], [-4, 5.25, -6, 0], [7, 8, 9, 1]], np.float32)


def npy(array) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def pcd(data: bytes, *, form="binary", fields="x y z intensity", size="4 4 4 4", kind="F F F F", count="1 1 1 1", n=3):
    head = f"# .PCD v0.7\nVERSION 0.7\nFIELDS {fields}\nSIZE {size}\nTYPE {kind}\nCOUNT {count}\nWIDTH {n}\nHEIGHT 1\n"
    return f"{head}VIEWPOINT 0 0 0 1 0 0 0\nPOINTS {n}\nDATA {form}\n".encode() + data


def compressed(points) -> bytes:
    blocks = b"".join(np.ascontiguousarray(column, "<f4").tobytes() for column in points.T)
    packed = literals(blocks)
    return np.array([len(packed), len(blocks)], "<u4").tobytes() + packed


def ply(data: bytes, *, form="binary_little_endian", properties="float x float y float z float intensity", n=3):
    words = properties.split()
    lines = "".join(f"property {kind} {name}\n" for kind, name in zip(words[::2], words[1::2], strict=True))
    return f"ply\nformat {form} 1.0\ncomment a\nelement vertex {n}\n{lines}end_header\n".encode() + data


def text(points) -> bytes:
    return "".join(" ".join(f"{value:g}" for value in row) + "\n" for row in points).encode()


def read(tmp_path, name, data, **options):
    path = tmp_path / name
    path.write_bytes(data)
    return read_points(path, **options)


WHOLE = {
    "float32 rows": ("a.bin", POINTS.tobytes()),
    "npy": ("a.npy", npy(POINTS)),
    "npy of doubles in columns": ("a.npy", npy(np.asfortranarray(POINTS, np.float64))),
    "npy of the other byte order": ("a.npy", npy(POINTS.astype(">f4"))),
    "pcd": ("a.pcd", pcd(POINTS.tobytes())),
    "pcd of text": ("a.pcd", pcd(text(POINTS), form="ascii")),
    "pcd compressed": ("a.pcd", pcd(compressed(POINTS), form="binary_compressed")),
    "ply": ("a.ply", ply(POINTS.tobytes())),
    "ply of the other byte order": ("A.PLY", ply(POINTS.astype(">f4").tobytes(), form="binary_big_endian")),
    "ply of text with faces": (
        "a.ply",
        ply(text(POINTS) + b"3 0 1 2\n", form="ascii").replace(
            b"end_header", b"element face 1\nproperty list uchar int vertex_index\nend_header"
        ),
    ),
}


@pytest.mark.parametrize("name", WHOLE)
def test_all_formats_give_the_same_points(tmp_path, name):
    notes: list[str] = []
    points = read(tmp_path, *WHOLE[name], notes=notes)
    np.testing.assert_array_equal(points, POINTS)
    assert points.dtype == np.float32 and notes == []


def test_fields_in_another_order_with_others_between(tmp_path):
    record = np.dtype([("i", "<u1"), ("z", "<f8"), ("n", "<f4", 2), ("y", "<f4"), ("x", "<i2")])
    rows = np.zeros(2, record)
    rows["x"], rows["y"], rows["z"], rows["i"] = (1, 2), (3, 4), (5, 6), (51, 255)
    data = pcd(
        rows.tobytes(), fields="intensity z normal y x", size="1 8 4 4 2", kind="U F F F I", count="1 1 2 1 1", n=2
    )
    np.testing.assert_allclose(read(tmp_path, "a.pcd", data), [[1, 3, 5, 0.2], [2, 4, 6, 1]])  # 51 of 255


def test_without_an_intensity_it_is_zero_and_that_is_said(tmp_path):
    notes: list[str] = []
    points = read(tmp_path, "a.ply", ply(POINTS[:, :3].tobytes(), properties="float x float y float z"), notes=notes)
    np.testing.assert_array_equal(points[:, 3], [0, 0, 0])
    points = read(tmp_path, "a.npy", npy(POINTS[:, :3]), notes=notes)
    assert points.shape == (3, 4)
    assert notes == ["no intensity; it is taken as 0"] * 2


def test_intensities_above_one_are_told_not_changed(tmp_path):
    notes: list[str] = []
    assert read(tmp_path, "a.npy", npy(POINTS[:, :3] * 1.0), notes=notes)[0, 0] == 1
    points = read(tmp_path, "b.pcd", pcd((POINTS * 100).tobytes()), notes=notes)
    assert points[0, 3] == 50 and "up to 100" in notes[-1]


def test_points_without_a_return_are_left_out_of_pcd_and_that_is_said(tmp_path):
    notes: list[str] = []
    points = POINTS.copy()
    points[1, :3] = np.nan
    np.testing.assert_array_equal(read(tmp_path, "a.pcd", pcd(points.tobytes()), notes=notes), POINTS[[0, 2]])
    assert notes == ["1 point without a return left out"]
    points[1, 0] = 3
    with pytest.raises(PointFileError, match="number 1"):
        read(tmp_path, "a.pcd", pcd(points.tobytes()))


def test_more_numbers_per_point(tmp_path):
    wide = np.arange(10, dtype=np.float32).reshape(2, 5)
    np.testing.assert_array_equal(read(tmp_path, "a.bin", wide.tobytes(), num_features=5), wide)
    notes: list[str] = []
    np.testing.assert_array_equal(read(tmp_path, "a.npy", npy(wide), notes=notes), wide[:, :4])
    assert notes[0] == "of 5 numbers per point the first 4 are used"


ASCII = "FIELDS x y z intensity\nSIZE 4 4 4 4\nTYPE F F F F\nWIDTH 2\nHEIGHT 1\nDATA ascii\n"


@pytest.mark.parametrize(
    "lines, kind, message",
    [
        ("", "truncated_points", "cut off: 0 points of 2"),
        ("\n \n", "truncated_points", "cut off: 0 points of 2"),
        ("1 2 3 0.5\n", "truncated_points", "cut off: 1 points of 2"),
        ("1 2 3 0.5\n4 5 6\n", "broken_points", "line 8 has 3 numbers, expected 4"),
        ("1 2 3 0.5\n\n4 5 6 0,5\n", "broken_points", "line 9: '0,5' is not a number"),
        ("1 2 3\n4 5 6\n", "broken_points", "line 7 has 3 numbers, expected 4"),
        ("1 2 3 1_0\n4 5 6 0.5\n", "broken_points", "its text holds what is not a number"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_a_broken_line_of_text_is_named(tmp_path, lines, kind, message):
    with pytest.raises(PointFileError) as error:
        read(tmp_path, "a.pcd", (ASCII + lines).encode())
    assert error.value.kind == kind and message in str(error.value)


def test_a_coordinate_that_is_given_twice_is_refused(tmp_path):
    with pytest.raises(PointFileError, match="several fields 'x'; its fields are x, x, y, z"):
        read(tmp_path, "a.pcd", ASCII.replace("x y z intensity", "x x y z").encode() + b"1 2 3 4\n5 6 7 8\n")


NAN = np.array([[1, 2, np.nan, 0]], np.float32)
BROKEN = {
    "no file": ("none.bin", None, "missing_points"),
    "a picture": ("a.png", b"x", "unsupported_points"),
    "nothing": ("a.bin", b"", "empty_points"),
    "cut bin": ("a.bin", bytes(47), "truncated_points"),
    "nan": ("a.bin", NAN.tobytes(), "non_finite_points"),
    "infinity": ("a.npy", npy(np.array([[1, 2, -np.inf, 0]])), "non_finite_points"),
    "too large for float32": ("a.npy", npy(np.array([[1, 2, 1e300, 0]])), "non_finite_points"),
    "npy without points": ("a.npy", npy(np.zeros((0, 4))), "empty_points"),
    "npy of one row": ("a.npy", npy(np.zeros(4)), "broken_points"),
    "npy of two columns": ("a.npy", npy(np.zeros((4, 2))), "broken_points"),
    "npy of complex numbers": ("a.npy", npy(np.zeros((4, 4), complex)), "broken_points"),
    "cut npy": ("a.npy", npy(POINTS)[:-1], "truncated_points"),
    "cut header": ("a.npy", npy(POINTS)[:40], "broken_points"),
    "no npy": ("a.npy", b"hello there", "broken_points"),
    "npy that says too much": ("a.npy", npy(POINTS).replace(b"(3, 4)", b"(9999999, 4)"[:6]), "broken_points"),
    "cut pcd": ("a.pcd", pcd(POINTS.tobytes()[:-1]), "truncated_points"),
    "pcd that says too much": ("a.pcd", pcd(POINTS.tobytes(), n=10**15), "too_large_points"),
    "pcd without z": ("a.pcd", pcd(POINTS.tobytes(), fields="x y w intensity"), "broken_points"),
    "pcd without end": ("a.pcd", b"# .PCD\nFIELDS x y z\n", "truncated_points"),
    "pcd of no type": ("a.pcd", pcd(POINTS.tobytes(), kind="F F F Q"), "broken_points"),
    "pcd of wide points": ("a.pcd", pcd(b"", count="1 1 1 99999999"), "broken_points"),
    "pcd of no form": ("a.pcd", pcd(POINTS.tobytes(), form="zipped"), "broken_points"),
    "pcd with too few counts": ("a.pcd", pcd(POINTS.tobytes(), count="1 1"), "broken_points"),
    "pcd of short text": ("a.pcd", pcd(b"1 2 3 4\n", form="ascii"), "truncated_points"),
    "pcd of ragged text": ("a.pcd", pcd(b"1 2 3 4\n1 2 3\n4 5 6 7 8\n", form="ascii"), "broken_points"),
    "pcd of words": ("a.pcd", pcd(b"1 2 3 4\n1 2 x 4\n1 2 3 4\n", form="ascii"), "broken_points"),
    "pcd of broken LZF": (
        "a.pcd",
        pcd(np.array([2, 48], "<u4").tobytes() + b"\x20\x00", form="binary_compressed"),
        "broken_points",
    ),
    "pcd of a bomb": (
        "a.pcd",
        pcd(np.array([2, 2**32 - 1], "<u4").tobytes() + b"\x20\x00", form="binary_compressed"),
        "broken_points",
    ),
    "pcd without points": ("a.pcd", pcd(b"", n=0), "empty_points"),
    "pcd all without return": ("a.pcd", pcd(np.full((3, 4), np.nan, "<f4").tobytes()), "empty_points"),
    "cut ply": ("a.ply", ply(POINTS.tobytes()[:-1]), "truncated_points"),
    "ply of no type": ("a.ply", ply(POINTS.tobytes(), properties="half x float y float z"), "broken_points"),
    "ply with lists": (
        "a.ply",
        ply(POINTS.tobytes()).replace(b"property float intensity", b"property list uchar int q"),
        "unsupported_points",
    ),
    "ply of faces first": (
        "a.ply",
        ply(POINTS.tobytes()).replace(b"element vertex", b"element face 9\nelement vertex"),
        "unsupported_points",
    ),
    "no ply": ("a.ply", POINTS.tobytes(), "broken_points"),
    "ply that says too much": ("a.ply", ply(POINTS.tobytes(), n=10**12), "too_large_points"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_refused_by_name(tmp_path, name):
    file, data, kind = BROKEN[name]
    if data is not None:
        (tmp_path / file).write_bytes(data)
    with pytest.raises(DataError) as error:
        read_points(tmp_path / file)
    assert error.value.kind == kind
    assert str(tmp_path / file) in str(error.value) and "\n" not in str(error.value)
    assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)  # worker processes send it


def test_npy_with_objects_is_not_unpickled(tmp_path):
    data = npy(np.array([[print, 1], [2, 3]], object))
    with pytest.raises(PointFileError, match="object"):
        read(tmp_path, "a.npy", data)


def test_a_header_that_promises_gigabytes_takes_none(tmp_path):
    head = b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little")
    shape = f"({MAX_POINTS}, 4)"
    words = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".encode()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(PointFileError, match="cut off: 0 bytes of 640,000,000"):
        read(tmp_path, "a.npy", head + words.ljust(117) + b"\n")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


def test_five_million_points_are_read(tmp_path):
    points = np.zeros((5_000_000, 4), np.float32)
    points[-1] = (1, 2, 3, 1)
    np.testing.assert_array_equal(read(tmp_path, "a.bin", points.tobytes())[-1], [1, 2, 3, 1])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(sorted(WHOLE)), st.integers(0, 400), st.binary(max_size=4), st.booleans())
def test_damaged_files_give_points_or_a_clear_error(tmp_path, name, place, piece, is_cut):
    file, data = WHOLE[name]
    damaged = data[:place] + piece + (b"" if is_cut else data[place + len(piece) :])
    try:
        points = read(tmp_path, file, damaged)
    except PointFileError:
        return
    assert points.dtype == np.float32 and points.shape[1] == 4 and np.isfinite(points).all() and len(points)
