"""Files from strangers: nothing that a user opens runs code, leaves its folder, or speaks to the terminal or page."""

import hashlib
import json
import shutil
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from sightline.engine.checkpoint.reader import find_checkpoints
from tests.cli.tool import RECIPE, sightline
from tests.faults.hostile import PICKLES
from tests.faults.tiny import changes_with, train

TAGGED_YAML = (
    "!!python/object/apply:os.system ['echo pwned > {witness}']",
    "!!python/object/new:subprocess.Popen [[touch, '{witness}']]",
    "!!python/name:os.system",
    "!!python/module:os",
    "!custom 3",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    run = tmp_path_factory.mktemp("trained") / "run"
    assert train(run, "epochs=1") == 0
    return run


@pytest.fixture
def run(trained, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(trained, copy)
    return copy


@pytest.fixture
def witness(tmp_path):
    """A file that hostile code would write."""
    return tmp_path / "pwned"


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.jpg"
    cv2.imwrite(str(path), np.full((64, 96, 3), 90, np.uint8))
    return path


@pytest.fixture(params=PICKLES)
def write_pickle(request):
    return PICKLES[request.param]


def assert_refused(outcome, witness, *words):
    assert outcome.code == 2, outcome
    assert "Traceback" not in outcome.err
    assert len(outcome.err.splitlines()) <= 5
    for word in words:
        assert word in outcome.err
    assert not witness.exists()


def every_command(path, photo):
    """Every command that takes a run or a checkpoint."""
    return [
        ("resume", path),
        ("eval", path),
        ("predict", path, photo),
        ("train", "--from", path),
        ("train", RECIPE, *changes_with("epochs=1"), f"weights={path}"),
        ("report", path),
        ("status", path),
        ("compare", path, path),
    ]


@pytest.mark.parametrize("name", ["best.pt", "model.safetensors", "weights"])
def test_a_pickle_in_place_of_a_run_or_of_weights_is_refused_and_not_opened(
    tmp_path, photo, witness, write_pickle, name
):
    path = tmp_path / name
    write_pickle(path, witness)
    for arguments in every_command(path, photo):
        assert_refused(sightline(*arguments, cwd=tmp_path), witness, str(path))


@pytest.mark.parametrize("name", ["config.yaml", "run.json", "data.json"])
def test_a_pickle_in_place_of_a_file_of_a_run_is_refused_and_not_opened(
    tmp_path, run, photo, witness, write_pickle, name
):
    write_pickle(run / name, witness)
    readers = {
        "config.yaml": [("resume", run), ("eval", run), ("predict", run, photo), ("train", "--from", run)],
        "run.json": [("resume", run)],
        "data.json": [("predict", run, photo)],
    }
    for arguments in readers[name]:
        assert_refused(sightline(*arguments, cwd=tmp_path), witness, name)


@pytest.mark.parametrize("kind", PICKLES)
def test_pickles_in_a_run_that_is_looked_at_are_not_opened(tmp_path, run, witness, kind):
    for name in ("evaluation.json", "status.json", "data.json", "pictures/eval_000.jpg", "timing.jsonl"):
        PICKLES[kind](run / name, witness)
    outcome = sightline("report", run, cwd=tmp_path)
    assert outcome.code == 0, outcome
    PICKLES[kind](run / "metrics.jsonl", witness)
    for command in (("report", run), ("compare", run, run), ("status", run)):
        outcome = sightline(*command, cwd=tmp_path)
        assert outcome.code in (0, 2), outcome
        assert "Traceback" not in outcome.err
    assert not witness.exists()


def seal(checkpoint, **changes):
    """Change ``state.json`` and give it the hash that its new content has."""
    body = json.loads((checkpoint / "state.json").read_text())
    del body["sha256"]
    text = json.dumps({**body, **changes}, indent=1)[1:].encode()
    digest = hashlib.sha256(text).hexdigest().encode()
    (checkpoint / "state.json").write_bytes(b'{"sha256": "%s",\n' % digest + text)


def entry(path):
    content = path.read_bytes()
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def test_sealing_is_done_as_the_writer_does_it(tmp_path, run):
    seal(find_checkpoints(run)[0])
    assert sightline("eval", run, "--checkpoint", "latest", cwd=tmp_path).code == 0


def test_a_pickle_with_the_right_hash_in_a_checkpoint_is_not_opened(tmp_path, run, photo, witness, write_pickle):
    for checkpoint in find_checkpoints(run):
        write_pickle(checkpoint / "model.safetensors", witness)
        write_pickle(checkpoint / "ema.safetensors", witness)
        files = {path.name: entry(path) for path in checkpoint.glob("*.safetensors")}
        seal(checkpoint, files=files)
    for command in (("resume", run, "epochs=2"), ("eval", run), ("predict", run, photo)):
        assert_refused(sightline(*command, cwd=tmp_path), witness, "safetensors")
    weights = find_checkpoints(run)[0] / "model.safetensors"
    command = ("train", RECIPE, *changes_with("epochs=1"), f"weights={weights}")
    assert_refused(sightline(*command, cwd=tmp_path), witness, "pickle")


@pytest.mark.parametrize("name", ["../../../secret.safetensors", "/etc/hostname", "a/b.safetensors", "..", "x.pkl"])
def test_a_checkpoint_that_names_files_outside_of_itself_is_damaged(tmp_path, run, name):
    (tmp_path / "secret.safetensors").write_bytes(b"secret")
    for checkpoint in find_checkpoints(run):
        seal(checkpoint, files={name: {"bytes": 6, "sha256": hashlib.sha256(b"secret").hexdigest()}})
    outcome = sightline("resume", run, "epochs=2", cwd=tmp_path)
    assert outcome.code == 2
    assert "damaged" in outcome.err
    assert (tmp_path / "secret.safetensors").read_bytes() == b"secret"


def test_a_checkpoint_that_links_elsewhere_is_refused(tmp_path, run):
    newest = find_checkpoints(run)[0]
    elsewhere = tmp_path / "elsewhere.safetensors"
    (newest / "model.safetensors").rename(elsewhere)
    (newest / "model.safetensors").symlink_to(elsewhere)
    outcome = sightline("eval", newest, cwd=tmp_path)
    assert outcome.code == 2
    assert "is a link" in outcome.err


@pytest.mark.parametrize("text", TAGGED_YAML)
def test_yaml_with_tags_is_refused_wherever_yaml_is_read(tmp_path, run, photo, witness, text):
    text = text.format(witness=witness)
    change_file = tmp_path / "changes.yaml"
    change_file.write_text(f"recipe: {RECIPE}\nseed: {text}\n")
    data = tmp_path / "data.yaml"
    data.write_text(f"train: {text}\nval: images\nnames: [a]\n")
    config = run / "config.yaml"
    config.write_text(config.read_text() + f"seed2: {text}\n")
    for command in (
        ("train", change_file),
        ("plot-lr", change_file),
        ("train", RECIPE, "--data", data),
        ("check", data),
        ("resume", run, "epochs=2"),
        ("eval", run),
        ("predict", run, photo),
        ("train", "--from", run),
    ):
        assert_refused(sightline(*command, cwd=tmp_path), witness, "tag")
    assert_refused(sightline("train", RECIPE, f"seed={text}", cwd=tmp_path), witness, "seed: must be a valid integer")


# Names from strangers.

NAMES = (
    "<img src=x onerror=alert(1)>",
    '"onmouseover="alert(1)" x="',
    "<script>alert(2)<",
    "line\nbreak\r\rresuming",
    "esc\x1b[31m\x1b]0;title\x07red",
    "right\u202eto left",
    "=cmd|' -C calc'!A0",
    "&lt;b&gt;&amp;",
    "{{ 7*7 }}{% raw %}",
)
CLASS_NAMES = ("<script>alert(3)</script>", "</style><b onclick=alert(4)>bold")


@pytest.fixture(scope="module")
def named_dataset(tmp_path_factory):
    """A YOLO data set with hostile file and class names; one label of every image has no area, so all are named."""
    root = tmp_path_factory.mktemp("named") / "data"
    generator = np.random.default_rng(0)
    for split in ("train", "val"):
        for folder in ("images", "labels"):
            (root / folder / split).mkdir(parents=True)
        for name in NAMES:
            image = generator.integers(0, 255, (64, 64, 3), np.uint8)
            stem = name.replace("/", "")
            (root / "images" / split / f"{stem}.png").write_bytes(cv2.imencode(".png", image)[1].tobytes())
            (root / "labels" / split / f"{stem}.txt").write_text("0 0.5 0.5 0.4 0.4\n1 0.2 0.2 0 0\n")
    names = json.dumps(CLASS_NAMES)
    (root / "data.yaml").write_text(f"train: images/train\nval: images/val\nnames: {names}\n")
    return root


class Page(HTMLParser):
    """What a browser would see of a page: its elements, its text, and where it points to."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, text):
        self.text += text


def test_names_of_files_and_classes_stay_text_on_the_page_and_on_the_terminal(tmp_path, named_dataset, monkeypatch):
    out = tmp_path / "run"
    changes = [c for c in changes_with("epochs=1", "log.eval_pictures=9") if not c.startswith("data.")]
    outcome = sightline("train", RECIPE, "--data", named_dataset, "--out", out, *changes, cwd=tmp_path)
    assert outcome.code == 0, outcome
    found = sightline("predict", out, named_dataset / "images" / "val", "--score", "0", cwd=tmp_path)
    checked = sightline("check", named_dataset, cwd=tmp_path)
    evaluated = sightline("eval", out, cwd=tmp_path)
    for printed in (outcome, found, checked, evaluated):
        assert printed.code in (0, 2), printed
        assert all(character == "\n" or character.isprintable() for character in printed.out + printed.err)
        assert "\nbreak" not in printed.out + printed.err
    assert "esc\\x1b" in found.out

    page = Page((out / "report" / "index.html").read_text())
    assert not [tag for tag, _ in page.elements if tag in ("script", "iframe", "object", "embed", "base", "b")]
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        for pointer in ("src", "href"):
            assert attributes.get(pointer, "data:").startswith(("data:", "#")), (tag, attributes)
    assert "<img src=x onerror=alert(1)>" in page.text
    assert "<script>alert(3)</script>" in page.text
    assert "{{ 7*7 }}{% raw %}" in page.text


def test_predictions_of_hostile_names_stay_in_their_folder(tmp_path, run):
    source = tmp_path / "photos"
    source.mkdir()
    for name in ("..%2f..%2fup.jpg", "~root.jpg", "-rf.jpg", "$(touch pwned).jpg", "a;touch pwned;.jpg", "*.jpg"):
        (source / name).write_bytes(cv2.imencode(".jpg", np.full((64, 64, 3), 90, np.uint8))[1].tobytes())
    before = set(tmp_path.rglob("*"))
    outcome = sightline("predict", run, source, "--out", tmp_path / "found", cwd=tmp_path)
    assert outcome.code == 0, outcome
    new = set(tmp_path.rglob("*")) - before
    assert all(path == tmp_path / "found" or (tmp_path / "found") in path.parents for path in new)
    assert len([path for path in new if path.suffix == ".jpg"]) == 6
